"""The whole image fades to the centre and nothing else happens (VCD's `black`)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.schedules.base import ScheduleContext
from pipeline.diffusion.schedules.fades import Fade
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule
from pipeline.diffusion.schedules.named import End, Named


class DimSpec(DegradationScheduleSpec):
    """alpha = b_t, the same for all components of any basis."""

    kind: Literal["dim"] = "dim"
    fade: Fade = "cosine"  # factor on all components, falling to 0 at t = 1: the image ends at the centre

    names: ClassVar[tuple[Named, ...]] = (Named("black", "The image fades to black.", is_black=True),)

    @property
    def end(self) -> End:
        return "zero"

    def build(self, context: ScheduleContext) -> "Dim":
        if self.fade == "none":
            raise ConfigError("schedule dim needs a fade: without one no level does anything")
        return Dim(self)


class Dim(LevelSchedule):
    """The fade alone."""

    is_scalar = True

    def profile(self, position: Tensor) -> Tensor:
        return torch.ones_like(position)
