"""Pixelation by the mean of nested blocks: a mask on the scales of the Haar transform."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.bases import HaarDctBasis
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule, interpolated
from pipeline.diffusion.schedules.named import End, Named


class BlockMeanSpec(DegradationScheduleSpec):
    """Blocks of 2, 4, 8 ... pixels and then the whole image are replaced by their mean.

    Blocks double as long as they divide every side: 16 pixels have the scales 2, 4, 8, 16 and 28 pixels 2, 4, 28. With
    as many levels as scales each level is one block size (Cold Diffusion's Incremental_area_factor_2). With more, one
    scale after another fades linearly, finest first; with fewer, some levels remove several scales.
    """

    kind: Literal["block_mean"] = "block_mean"

    basis: ClassVar[str] = "haar_dct"
    names: ClassVar[tuple[Named, ...]] = (
        Named("pixelate", "Nested blocks of pixels are replaced by their mean."),
        Named("black_pixelate", "Nested block means and fade to black together.", is_black=True),
    )

    @property
    def end(self) -> End:
        return "flat"

    def build(self, context: ScheduleContext) -> "BlockMean":
        basis = context.basis
        if not isinstance(basis, HaarDctBasis):
            raise ConfigError(f"schedule block_mean needs basis haar_dct, found {basis.name}")
        if basis.num_halvings == 0:
            sides = " x ".join(map(str, context.shape[-2:]))
            raise ConfigError(f"block means need sides that can be halved, found {sides}; use pixelate_nearest or blur")
        return BlockMean(self, basis.level)


class BlockMean(LevelSchedule):
    """The schedule for the scale of each component `(dim,)`: 0 = the mean, which stays, then coarse to fine."""

    def __init__(self, spec: BlockMeanSpec, level: Tensor) -> None:
        super().__init__(spec)
        num_scales = int(level.max())
        self._removed = Constant(removed_scales(spec.num_levels, num_scales)[:, None])
        # The mean gets a place that the count of removed scales never reaches.
        self._place = Constant(torch.where(level > 0, num_scales - level, float(num_scales))[None, :])

    def profile(self, position: Tensor) -> Tensor:
        removed = interpolated(self._removed.on(position.device), position)
        return 1 - (removed - self._place.on(position.device)).clamp(0.0, 1.0)


def removed_scales(num_levels: int, num_scales: int) -> Float[Tensor, " levels"]:
    """How many scales each level has removed, `(T + 1,)` from 0 to `num_scales`; a fraction is a scale half faded."""
    removed = torch.arange(num_levels + 1, dtype=torch.float64) * (num_scales / num_levels)
    return removed.ceil() if num_levels < num_scales else removed
