"""Discrete schedules from a list of betas: DDPM's linear one, and any other."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from pipeline.diffusion.schedules.base import Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.discrete import DiscreteLevels

Beta = Annotated[float, Field(gt=0.0, lt=1.0)]


class LinearBetaSpec(ScheduleSpec):
    """beta_j = linspace(beta_min, beta_max, num_levels) (Ho 2020)."""

    kind: Literal["linear_beta"] = "linear_beta"
    beta_min: Beta = 1e-4
    beta_max: Beta = 0.02
    num_levels: Annotated[int, Field(ge=1)] = 1000

    @model_validator(mode="after")
    def _rises(self) -> "LinearBetaSpec":
        if self.beta_min > self.beta_max:
            raise ValueError("beta_min must not exceed beta_max")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        return DiscreteLevels(torch.linspace(self.beta_min, self.beta_max, self.num_levels, dtype=torch.float64))


class BetasSpec(ScheduleSpec):
    """The betas of a published discrete system, listed from the first step."""

    kind: Literal["betas"] = "betas"
    values: tuple[Beta, ...] = Field(min_length=1)

    def build(self, context: ScheduleContext) -> Schedule:
        return DiscreteLevels(torch.tensor(self.values, dtype=torch.float64))
