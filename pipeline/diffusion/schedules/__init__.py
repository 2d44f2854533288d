"""Noise schedules gamma(t) and their table."""

from typing import Any

from pipeline.config import union
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.betas import BetasSpec, LinearBetaSpec
from pipeline.diffusion.schedules.cosine import CosineSpec
from pipeline.diffusion.schedules.gud import GudSchedule, GudSpec
from pipeline.diffusion.schedules.log_linear import LogLinearSpec

__all__ = ["SCHEDULES", "GudSchedule", "NoiseLevel", "Schedule", "ScheduleContext", "ScheduleSpec", "ScheduleUnion"]

SCHEDULES: dict[str, type[ScheduleSpec]] = {
    "linear_beta": LinearBetaSpec,
    "betas": BetasSpec,
    "cosine": CosineSpec,
    "log_linear": LogLinearSpec,
    "gud": GudSpec,
}

ScheduleUnion: Any = union(SCHEDULES)
