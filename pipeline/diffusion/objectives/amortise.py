"""One network for a family of schedules: its parameters are drawn per example (GUD, arXiv 2410.02667, figures 3 and 5).

The network is conditioned on the whole noise state gamma(t), so every schedule inside the trained box can be evaluated
without training again.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError, Spec, neutral
from pipeline.diffusion.objectives.base import Draws
from pipeline.diffusion.schedules import GudSchedule

Bounds = tuple[float, float]
ROUNDING = 1e-9
"""Parameters outside the box by no more than this are inside: 0.4 written in another way."""


class AmortiseSpec(Spec):
    """The box of schedule parameters; those that are absent keep the schedule's own value.

    Attributes:
        softness_a: smallest and largest a, drawn per example.
        ordering_r: smallest and largest r, drawn uniformly per example.
        uniform_in: whether a itself or the softness 1/a is drawn uniformly. Small a are learnt last; with `softness`
            they are drawn more often.
    """

    softness_a: tuple[Annotated[float, Field(ge=0.0)], float] | None = None
    ordering_r: tuple[Annotated[float, Field(ge=0.0)], Annotated[float, Field(le=1.0)]] | None = None
    uniform_in: Literal["a", "softness"] = neutral("a")

    @model_validator(mode="after")
    def _box_has_a_side(self) -> "AmortiseSpec":
        if not self.box:
            raise ValueError("amortise: name softness_a or ordering_r, each with [from, to]")
        for name, (low, high) in self.box.items():
            if low >= high:
                raise ValueError(f"amortise.{name}: [{low:g}, {high:g}] is empty; give [from, to]")
        if self.uniform_in == "softness" and (self.softness_a is None or self.softness_a[0] == 0.0):
            raise ValueError("amortise.uniform_in: softness needs softness_a from above 0, where 1/a is finite")
        return self

    def __str__(self) -> str:
        sides = [f"{name}:{low:g}..{high:g}" for name, (low, high) in self.box.items()]
        return ",".join([*sides, *([f"uniform_in:{self.uniform_in}"] if self.uniform_in != "a" else [])])

    @property
    def box(self) -> dict[str, Bounds]:
        """The bounds of every parameter that is drawn."""
        sides = {"softness_a": self.softness_a, "ordering_r": self.ordering_r}
        return {name: bounds for name, bounds in sides.items() if bounds is not None}

    def outside(self, point: Mapping[str, Any]) -> str | None:
        """Which parameter of `point` lies outside the box, in one clause, or None."""
        for name, (low, high) in self.box.items():
            if not low - ROUNDING <= point[name] <= high + ROUNDING:
                return f"{name} = {point[name]:g} lies outside the trained range [{low:g}, {high:g}]"
        return None

    def draw(self, draws: Draws) -> dict[str, Float[Tensor, "batch 1"]]:
        """Parameters for the examples of a batch, float64."""
        rows: dict[str, Tensor] = {}
        for name, (low, high) in self.box.items():
            share = draws.uniform(name, ()).to(torch.float64)
            if name == "softness_a" and self.uniform_in == "softness":
                value = 1.0 / (1.0 / high + (1.0 / low - 1.0 / high) * share)
            else:
                value = low + (high - low) * share
            rows[name] = value[:, None]
        return rows


def check_family(schedule: object) -> None:
    """Only a schedule that has free parameters can be drawn.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(schedule, GudSchedule):
        raise ConfigError("objective: amortise draws softness_a and ordering_r, so it needs schedule gud")
