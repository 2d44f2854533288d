"""Noise schedules gamma(t), degradation schedules alpha(t), and their tables."""

from typing import TYPE_CHECKING

from pipeline.config import union
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.betas import BetasSpec, LinearBetaSpec
from pipeline.diffusion.schedules.block_mean import BlockMeanSpec
from pipeline.diffusion.schedules.blurring import BlurringSpec
from pipeline.diffusion.schedules.columns import ColumnsSpec, HaarColumnsSpec
from pipeline.diffusion.schedules.cosine import CosineSpec
from pipeline.diffusion.schedules.decolor import DecolorSpec
from pipeline.diffusion.schedules.dim import DimSpec
from pipeline.diffusion.schedules.explicit import Attenuation, ExplicitSchedule, RescaledSchedule
from pipeline.diffusion.schedules.gud import GudSchedule, GudSpec
from pipeline.diffusion.schedules.heat import HeatSpec
from pipeline.diffusion.schedules.kernel_blur import KernelBlurSpec
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule
from pipeline.diffusion.schedules.log_linear import LogLinearSpec
from pipeline.diffusion.schedules.masking import MaskingSpec
from pipeline.diffusion.schedules.named import End, Named
from pipeline.diffusion.schedules.sigmoid import SigmoidSpec
from pipeline.diffusion.schedules.vp import VpSpec

__all__ = [
    "DEGRADATION_SCHEDULES",
    "NOISE_SCHEDULES",
    "SCHEDULES",
    "Attenuation",
    "DegradationScheduleSpec",
    "End",
    "ExplicitSchedule",
    "GudSchedule",
    "LevelSchedule",
    "Named",
    "NoiseLevel",
    "RescaledSchedule",
    "Schedule",
    "ScheduleContext",
    "ScheduleSpec",
    "ScheduleUnion",
]

NOISE_SCHEDULES: dict[str, type[ScheduleSpec]] = {
    "linear_beta": LinearBetaSpec,
    "betas": BetasSpec,
    "cosine": CosineSpec,
    "sigmoid": SigmoidSpec,
    "vp": VpSpec,
    "log_linear": LogLinearSpec,
    "gud": GudSpec,
    "columns": ColumnsSpec,
    "haar_columns": HaarColumnsSpec,
}
"""Schedules of the noise level alone, for any data; all but the column schedules go with every basis."""

DEGRADATION_SCHEDULES: dict[str, type[DegradationScheduleSpec]] = {
    "dim": DimSpec,
    "heat": HeatSpec,
    "block_mean": BlockMeanSpec,
    "kernel_blur": KernelBlurSpec,
    "masking": MaskingSpec,
    "decolor": DecolorSpec,
}
"""Degradations in T levels, each for its own basis."""

SCHEDULES: dict[str, type[ScheduleSpec]] = {**NOISE_SCHEDULES, **DEGRADATION_SCHEDULES, "blurring": BlurringSpec}
"""Everything that `process.schedule` can be."""

if TYPE_CHECKING:
    ScheduleUnion = ScheduleSpec
else:
    ScheduleUnion = union(SCHEDULES)
