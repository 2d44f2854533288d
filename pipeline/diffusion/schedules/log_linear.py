"""gamma linear in time (VDM's fixed schedule, Kingma 2021)."""

from typing import Literal

import torch
from pydantic import model_validator

from pipeline.config import ConfigError, neutral
from pipeline.diffusion.schedules.base import Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.clipped_linear import ClippedLinear


class LogLinearSpec(ScheduleSpec):
    """gamma(t) = gamma_min + t (gamma_max - gamma_min).

    The ends may also be given as log SNR of the data, whose variances Sigma_i then decide gamma:
    gamma_min = min log Sigma - log_snr_data, gamma_max = max log Sigma - log_snr_prior. That is standard diffusion as a
    point of the gud family (softness_a = 1).

    Attributes:
        log_snr_data: smallest log SNR of a component at t = 0, with `log_snr_prior` instead of `gamma_min`.
        log_snr_prior: largest log SNR of a component at t = 1.
    """

    kind: Literal["log_linear"] = "log_linear"
    gamma_min: float = -13.3
    gamma_max: float = 5.0
    log_snr_data: float | None = neutral(None)
    log_snr_prior: float | None = neutral(None)

    @model_validator(mode="after")
    def _rises(self) -> "LogLinearSpec":
        if self.gamma_min >= self.gamma_max:
            raise ValueError("gamma_min must be smaller than gamma_max")
        return self

    @model_validator(mode="after")
    def _ends_are_named_once(self) -> "LogLinearSpec":
        if (self.log_snr_data is None) != (self.log_snr_prior is None):
            raise ValueError("log_snr_data and log_snr_prior go together; give both or none")
        if self.log_snr_data is None or self.log_snr_prior is None:
            return self
        if {"gamma_min", "gamma_max"} & self.model_fields_set:
            raise ValueError("give gamma_min and gamma_max, or log_snr_data and log_snr_prior, not both")
        if self.log_snr_prior >= self.log_snr_data:
            raise ValueError("log_snr_prior must be smaller than log_snr_data")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        low, high = self.gamma_min, self.gamma_max
        if self.log_snr_data is not None and self.log_snr_prior is not None:
            if context.log_variances_white is None:
                raise ConfigError("schedule log_linear with log_snr ends needs data statistics; none were given")
            low = float(context.log_variances_white.min()) - self.log_snr_data
            high = float(context.log_variances_white.max()) - self.log_snr_prior
        start = torch.tensor([[low]], dtype=torch.float64)
        return ClippedLinear(start, torch.full_like(start, high - low))
