"""What a baseline is: the axes that it takes, its defaults, and the system that it expands to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Axes = Mapping[str, Any]
"""Values of the grid axes of one cell, defaults filled in."""


@dataclass(frozen=True)
class Baseline:
    """One published system as a row of the grid.

    Attributes:
        name: how a grid file calls it.
        summary: one sentence with the source.
        axes: the axes that it takes, each with its default value.
        choices: for some axes, the only values that this baseline allows, and why in one clause.
        needs: axes that mean something only while another axis has a certain value: name -> (other axis, value).
        system: expands the axes to the tree of `SystemSpec` less the network; None for a control row.
        samplers: samplers used when the grid names none.
        control: a row that needs no training: the Gaussian fitted to the data, or the data's own test images.
    """

    name: str
    summary: str
    axes: Mapping[str, Any]
    system: Callable[[Axes], dict[str, Any]] | None
    samplers: tuple[Mapping[str, Any], ...] = ()
    choices: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict[str, Any])
    needs: Mapping[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    control: Literal["gaussian", "test_split"] | None = None
