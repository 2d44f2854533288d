"""Component-wise linear schedule of Generation with Unified Diffusion (Gerdes 2024): softness and ordering.

With l the ordering label (larger l = noised earlier, generated later), Sigma_w the data variance over s^2:
    gamma_i(t) = gamma_min_i + t d_gamma
    gamma_min_i = -log_snr_data + log Sigma_w_i + a (l_i - l_max)
    d_gamma = log_snr_data - log_snr_prior + a (l_max - l_min)
so that the smallest log SNR at t = 0 is log_snr_data and the largest at t = 1 is log_snr_prior.
"""

from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.clipped_linear import ClippedLinear
from pipeline.diffusion.schedules.ordering import ordering_label, spectral_label

Ordering = Literal["variance", "frequency", "rank", "column", "row", "level"]


class GudSpec(ScheduleSpec):
    """Softness and ordering of the linear family.

    softness_a is the paper's a (an inverse softness): 0 = no hierarchy, 1 with ordering variance = standard diffusion,
    large = autoregressive.
    """

    kind: Literal["gud"] = "gud"
    softness_a: Annotated[float, Field(ge=0.0)] = 1.0
    ordering: Ordering | tuple[float, ...] = "variance"
    ordering_r: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # 0: by variance, 1: by frequency
    log_snr_data: float = 7.0  # smallest log SNR at t = 0
    log_snr_prior: float = -7.0  # largest log SNR at t = 1
    clip: bool = False  # keep every log SNR within [log_snr_prior, log_snr_data]

    @model_validator(mode="after")
    def _is_consistent(self) -> "GudSpec":
        if self.log_snr_prior >= self.log_snr_data:
            raise ValueError("log_snr_prior must be smaller than log_snr_data")
        if self.ordering_r != 0 and self.ordering != "variance":
            raise ValueError("ordering_r mixes variance and frequency, so it needs ordering: variance")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        if context.log_variances is None or context.log_variances_white is None:
            raise ConfigError("schedule gud needs data statistics (the variance of each component); none were given")
        label = ordering_label(self.ordering, context)
        spectral = spectral_label(context) if self.ordering == "variance" else None
        return GudSchedule(self, label, log_variances_white=context.log_variances_white, spectral=spectral)


class GudSchedule(Schedule):
    """The schedule for given labels.

    Args:
        spec: its settings; `softness_a` and `ordering_r` may be replaced row by row.
        label: `(dim,)` ordering label at r = 0.
        log_variances_white: `(dim,)` log of the data variance over s^2.
        spectral: `(dim,)` label at r = 1, or None where the basis has no frequency.
        softness_a: scalar or `(n, 1)`; the spec's when None.
        ordering_r: scalar or `(n, 1)`; the spec's when None.
    """

    is_scalar = False

    def __init__(
        self,
        spec: GudSpec,
        label: Tensor,
        *,
        log_variances_white: Tensor,
        spectral: Tensor | None,
        softness_a: float | int | Tensor | None = None,
        ordering_r: float | int | Tensor | None = None,
    ) -> None:
        self.spec = spec
        self.label = label.to(torch.float64)
        self.log_variances_white = log_variances_white.to(torch.float64)
        self.spectral = spectral
        self.softness_a = _rows(spec.softness_a if softness_a is None else softness_a, "softness_a")
        self.ordering_r = _rows(spec.ordering_r if ordering_r is None else ordering_r, "ordering_r")
        if spectral is None and bool((self.ordering_r != 0).any()):
            raise ConfigError("ordering_r needs ordering: variance and a basis whose components have a frequency")

    def with_parameters(self, **parameters: float | int | Tensor) -> "GudSchedule":
        unknown = set(parameters) - {"softness_a", "ordering_r"}
        if unknown:
            raise ConfigError(f"schedule gud: free parameters are softness_a and ordering_r, found {sorted(unknown)}")
        return GudSchedule(
            self.spec,
            self.label,
            log_variances_white=self.log_variances_white,
            spectral=self.spectral,
            softness_a=parameters.get("softness_a", self.softness_a),
            ordering_r=parameters.get("ordering_r", self.ordering_r),
        )

    def level(self, t: Tensor) -> NoiseLevel:
        return self._line.level(t)

    @property
    def kinks(self) -> tuple[float, ...]:
        return self._line.kinks

    @cached_property
    def _line(self) -> ClippedLinear:
        device = self.softness_a.device
        label = self.label[None, :].to(device)
        if self.spectral is not None:
            label = (1 - self.ordering_r) * label + self.ordering_r * self.spectral[None, :].to(device)
        white = self.log_variances_white[None, :].to(device)
        largest = label.amax(dim=1, keepdim=True)
        smallest = label.amin(dim=1, keepdim=True)
        start = -self.spec.log_snr_data + white + self.softness_a * (label - largest)
        slope = self.spec.log_snr_data - self.spec.log_snr_prior + self.softness_a * (largest - smallest)
        if not self.spec.clip:
            return ClippedLinear(start, slope)
        low, high = white - self.spec.log_snr_data, white - self.spec.log_snr_prior
        return ClippedLinear(start, slope, low=low, high=high)


def _rows(value: float | int | Tensor, name: str) -> Tensor:
    """A parameter as `(n, 1)` float64."""
    rows = torch.as_tensor(value, dtype=torch.float64).detach()
    rows = rows.reshape(1, 1) if rows.ndim == 0 else rows
    if rows.ndim != 2 or rows.shape[1] != 1:
        raise ConfigError(f"{name} must be a scalar or (batch, 1), found shape {tuple(rows.shape)}")
    return rows
