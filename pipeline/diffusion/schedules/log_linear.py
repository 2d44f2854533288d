"""gamma linear in time (VDM's fixed schedule, Kingma 2021)."""

from typing import Literal

import torch
from pydantic import model_validator

from pipeline.diffusion.schedules.base import Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.clipped_linear import ClippedLinear


class LogLinearSpec(ScheduleSpec):
    """gamma(t) = gamma_min + t (gamma_max - gamma_min)."""

    kind: Literal["log_linear"] = "log_linear"
    gamma_min: float = -13.3
    gamma_max: float = 5.0

    @model_validator(mode="after")
    def _rises(self) -> "LogLinearSpec":
        if self.gamma_min >= self.gamma_max:
            raise ValueError("gamma_min must be smaller than gamma_max")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        start = torch.tensor([[self.gamma_min]], dtype=torch.float64)
        return ClippedLinear(start, torch.full_like(start, self.gamma_max - self.gamma_min))
