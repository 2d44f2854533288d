"""Variance-preserving SDE with beta linear in time (Song 2021)."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec


class VpSpec(ScheduleSpec):
    """beta(t) = beta_min + t (beta_max - beta_min), per unit of time."""

    kind: Literal["vp"] = "vp"
    beta_min: Annotated[float, Field(gt=0.0)] = 0.1
    beta_max: Annotated[float, Field(gt=0.0)] = 20.0

    @model_validator(mode="after")
    def _rises(self) -> "VpSpec":
        if self.beta_min > self.beta_max:
            raise ValueError("beta_min must not exceed beta_max")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        return Vp(self.beta_min, self.beta_max)


class Vp(Schedule):
    """gamma = log(exp(B) - 1) with B the integral of beta; gamma(0) = -inf."""

    def __init__(self, beta_min: float, beta_max: float) -> None:
        self.beta_min = beta_min
        self.beta_max = beta_max

    def level(self, t: Tensor) -> NoiseLevel:
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        integral = t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))
        noise = -torch.expm1(-integral)
        return NoiseLevel(torch.log(noise) + integral, beta / noise, beta)
