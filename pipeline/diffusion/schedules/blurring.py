"""Blurring diffusion (Hoogeboom & Salimans 2023): heat dissipation and noise together, at all times."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.explicit import Attenuation, ExplicitSchedule
from pipeline.diffusion.schedules.heat import laplacian


class BlurringSpec(ScheduleSpec):
    """alpha = a (d_min + (1 - d_min) exp(-L s^2 / 2)), s = blur_max sin^2(pi t / 2), a^2 + sigma^2 = 1.

    log(a^2 / sigma^2) = -2 log tan(angle), the angle linear in t between the two bounds (appendix A of the paper).
    """

    kind: Literal["blurring"] = "blurring"
    blur_max: Annotated[float, Field(gt=0.0)] = 20.0  # s at t = 1, in pixels
    min_scale: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.001  # d_min: what dissipation leaves of every frequency
    log_snr_data: float = 10.0  # of the noise alone, at t = 0
    log_snr_prior: float = -10.0  # of the noise alone, at t = 1

    @model_validator(mode="after")
    def _falls(self) -> "BlurringSpec":
        if self.log_snr_prior >= self.log_snr_data:
            raise ValueError("log_snr_prior must be smaller than log_snr_data")
        return self

    def build(self, context: ScheduleContext) -> "Blurring":
        if context.basis.name != "dct":
            raise ConfigError(f"schedule blurring needs basis dct, found {context.basis.name}")
        return Blurring(self, laplacian(context.shape))


class Blurring(ExplicitSchedule):
    """The schedule for Laplace eigenvalues `(dim,)`; sigma is the same for all components and never 0."""

    def __init__(self, spec: BlurringSpec, eigenvalues: Tensor) -> None:
        self.spec = spec
        self._eigenvalues = Constant(eigenvalues[None, :])
        self.first = math.atan(math.exp(-spec.log_snr_data / 2))
        self.last = math.atan(math.exp(-spec.log_snr_prior / 2))

    def attenuation(self, t: Float[Tensor, "n 1"]) -> Attenuation:
        angle = self.first + (self.last - self.first) * t
        s = self.spec.blur_max * torch.sin(math.pi / 2 * t).square()
        kept = torch.exp(-0.5 * self._eigenvalues.on(t.device) * s.square())
        d = self.spec.min_scale + (1 - self.spec.min_scale) * kept
        return Attenuation(torch.cos(angle) * d, torch.sin(angle))
