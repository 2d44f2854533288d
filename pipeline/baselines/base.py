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
        samplers: samplers used when the grid names none, or a function of the axes that gives them.
        likelihood: the likelihood of its own, as a function of the axes, instead of the grid's; None: the grid's.
        refusal: one sentence why axis values do not go together, or None; what `choices` and `needs` cannot say.
        control: a row that needs no training: a fitted Gaussian, the data's own test images, or their mean.
    """

    name: str
    summary: str
    axes: Mapping[str, Any]
    system: Callable[[Axes], dict[str, Any]] | None
    samplers: tuple[Mapping[str, Any], ...] | Callable[[Axes], tuple[Mapping[str, Any], ...]] = ()
    likelihood: Callable[[Axes], Mapping[str, Any]] | None = None
    refusal: Callable[[Axes], str | None] = lambda axes: None
    choices: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict[str, Any])
    needs: Mapping[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    control: Literal["gaussian", "test_split", "mean_image"] | None = None

    def default_samplers(self, axes: Axes) -> tuple[Mapping[str, Any], ...]:
        """The samplers of a cell when the grid names none."""
        return self.samplers(axes) if callable(self.samplers) else self.samplers
