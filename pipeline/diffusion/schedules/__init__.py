"""Noise schedules gamma(t) and their table."""

from typing import TYPE_CHECKING

from pipeline.config import union
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.betas import BetasSpec, LinearBetaSpec
from pipeline.diffusion.schedules.columns import ColumnsSpec, HaarColumnsSpec
from pipeline.diffusion.schedules.cosine import CosineSpec
from pipeline.diffusion.schedules.explicit import Attenuation, ExplicitSchedule, RescaledSchedule
from pipeline.diffusion.schedules.gud import GudSchedule, GudSpec
from pipeline.diffusion.schedules.log_linear import LogLinearSpec
from pipeline.diffusion.schedules.sigmoid import SigmoidSpec
from pipeline.diffusion.schedules.vp import VpSpec

__all__ = [
    "SCHEDULES",
    "Attenuation",
    "ExplicitSchedule",
    "GudSchedule",
    "NoiseLevel",
    "RescaledSchedule",
    "Schedule",
    "ScheduleContext",
    "ScheduleSpec",
    "ScheduleUnion",
]

SCHEDULES: dict[str, type[ScheduleSpec]] = {
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

if TYPE_CHECKING:
    ScheduleUnion = ScheduleSpec
else:
    ScheduleUnion = union(SCHEDULES)
