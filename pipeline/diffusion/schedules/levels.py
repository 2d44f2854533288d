"""What all degradations with T levels share: a profile per component, a fade to the centre, a constant noise."""

import math
from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.explicit import Attenuation, ExplicitSchedule
from pipeline.diffusion.schedules.fades import Fade, fade_levels
from pipeline.diffusion.schedules.named import End, Named

_ROUNDING = 1e-4
"""Times come through float32: up to T = 1000 they then miss their level by 6e-5 of a step."""


class DegradationScheduleSpec(ScheduleSpec):
    """Settings that every levelled degradation has. Level k of T lies at t = k/T; t = 0 is the clean image."""

    num_levels: Annotated[int, Field(ge=1)]  # T
    fade: Fade = "none"  # factor on all components, falling to 0 at t = 1: the image ends at the centre
    noise: Annotated[float, Field(ge=0.0)] = 0.0  # standard deviation added at every level, on the [-1, 1] scale

    is_degradation: ClassVar[bool] = True
    basis: ClassVar[str] = "pixel"
    """In which it is diagonal."""
    names: ClassVar[tuple[Named, ...]] = ()
    """What users call it."""

    @property
    def end(self) -> End:
        """What is left of an image at t = 1."""
        return "images"

    def build(self, context: ScheduleContext) -> "LevelSchedule":
        """The schedule for the components described by `context`.

        Raises:
            ConfigError: basis, shape or number of levels do not fit this degradation.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is built")


class LevelSchedule(ExplicitSchedule):
    """alpha = fade x profile and sigma = noise; between levels their parameters are interpolated linearly.

    sigma rises from 0 at t = 0 (the clean image) to `noise` at the first level.
    """

    def __init__(self, spec: DegradationScheduleSpec) -> None:
        self.noise = spec.noise
        self._fade = Constant(fade_levels(spec.fade, spec.num_levels)[:, None])

    @property
    def num_levels(self) -> int:
        """T."""
        return len(self._fade.value) - 1

    @abstractmethod
    def profile(self, position: Float[Tensor, "n 1"]) -> Float[Tensor, "n _"]:
        """The degradation's own factor, `(n, 1 | dim)`, at positions t T in [0, T]; 1 at position 0."""

    def attenuation(self, t: Float[Tensor, "n 1"]) -> Attenuation:
        position = level_position(t, self.num_levels)
        alpha = interpolated(self._fade.on(t.device), position) * self.profile(position)
        return Attenuation(alpha, self.noise * position.clamp(max=1.0))


def level_position(t: Tensor, num_levels: int) -> Tensor:
    """t T, exactly a whole number where t is k/T up to float32 rounding; differentiable in t."""
    position = t * num_levels
    rounding = (position.round() - position).detach()
    return position + torch.where(rounding.abs() < _ROUNDING, rounding, 0.0)


def interpolated(table: Float[Tensor, "levels width"], position: Float[Tensor, "n 1"]) -> Float[Tensor, "n width"]:
    """Rows of `table` `(T + 1, width)` at positions in [0, T], linear between them and exact on them."""
    low, share = _below(position, len(table) - 1)
    return torch.lerp(table[low], table[low + 1], share)


def _below(position: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """The level below each position, `(n,)`, and how far it is behind, `(n, 1)` in [0, 1]."""
    low = position.detach().floor().clamp(max=last - 1)
    return low[:, 0].long(), position - low


def geometric(first: float, last: float, count: int) -> Float[Tensor, " count"]:
    """`count` values from `first` to `last` in equal steps of the logarithm, float64; `last` alone when it is one."""
    if count == 1:
        return torch.tensor([last], dtype=torch.float64)
    return torch.exp(torch.linspace(math.log(first), math.log(last), count, dtype=torch.float64))
