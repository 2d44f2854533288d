"""Colour fades to grey (Cold Diffusion's decolorization)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext
from pipeline.diffusion.schedules.fades import Fade, fade_levels
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule, interpolated
from pipeline.diffusion.schedules.named import Named


class DecolorSpec(DegradationScheduleSpec):
    """alpha = 1 on grey, the mean of the three channels, and f_t on the two directions of colour."""

    kind: Literal["decolor"] = "decolor"
    chroma: Fade = "linear"  # f_t: how colour falls to 0 at t = 1

    basis: ClassVar[str] = "colour"
    names: ClassVar[tuple[Named, ...]] = (Named("decolor", "Colour fades to grey."),)

    def build(self, context: ScheduleContext) -> "Decolor":
        if context.basis.name != self.basis:
            raise ConfigError(f"schedule decolor needs basis {self.basis}, found {context.basis.name}")
        if len(context.shape) != 3 or context.shape[0] != 3:
            raise ConfigError(f"decolor needs images with 3 channels, found shape {tuple(context.shape)}")
        if self.chroma == "none":
            raise ConfigError("decolor needs a fade of the chroma: without one no level does anything")
        return Decolor(self, context.basis.level)


class Decolor(LevelSchedule):
    """The schedule for labels `(dim,)`: 0 = grey, 1 = chroma."""

    def __init__(self, spec: DecolorSpec, level: Tensor | None) -> None:
        super().__init__(spec)
        assert level is not None
        self._chroma = Constant(fade_levels(spec.chroma, spec.num_levels)[:, None])
        self._is_grey = Constant((level == 0)[None, :])

    def profile(self, position: Tensor) -> Tensor:
        chroma = interpolated(self._chroma.on(position.device), position)
        return torch.where(self._is_grey.on(position.device), 1.0, chroma)
