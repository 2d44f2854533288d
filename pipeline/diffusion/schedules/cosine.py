"""Cosine schedule of Nichol & Dhariwal 2021, eq. 17."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.capped import Capped
from pipeline.diffusion.schedules.discrete import DiscreteLevels, betas_from_alpha_bar


class CosineSpec(ScheduleSpec):
    """alpha_bar(t) = f(t) / f(0), f(t) = cos^2(pi/2 (t + offset) / (1 + offset)).

    With `num_levels` the betas of the levels are cut at 0.999 as in the paper; without, gamma is cut at `gamma_max`,
    because alpha_bar(1) = 0.
    """

    kind: Literal["cosine"] = "cosine"
    offset: Annotated[float, Field(gt=0.0)] = 0.008  # s in eq. 17; keeps beta near t = 0 from vanishing
    normalised: bool = True  # False: alpha_bar = f(t), which starts at gamma(0) = 2 log tan(pi/2 offset / (1 + offset))
    num_levels: Annotated[int, Field(ge=1)] | None = None
    gamma_max: Annotated[float, Field(gt=0.0)] = 20.0  # the 1000-level schedule of the paper ends at 19.85

    @model_validator(mode="after")
    def _levels_are_normalised(self) -> "CosineSpec":
        if self.num_levels is not None and not self.normalised:
            raise ValueError("num_levels starts from clean data, which needs normalised: true")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        schedule = Cosine(self.offset, is_normalised=self.normalised)
        if self.num_levels is None:
            return Capped(schedule, self.gamma_max)
        t = torch.linspace(0.0, 1.0, self.num_levels + 1, dtype=torch.float64)
        return DiscreteLevels(betas_from_alpha_bar(schedule.alpha_bar(t)))


class Cosine(Schedule):
    """The uncut schedule; gamma(1) = +inf."""

    def __init__(self, offset: float, *, is_normalised: bool) -> None:
        self.offset = offset
        self.is_normalised = is_normalised

    def alpha_bar(self, t: Tensor) -> Tensor:
        """f(t) / f(0), or f(t); written with sines, which are exact near t = 1."""
        f = torch.sin(math.pi / 2 * (1 - t) / (1 + self.offset)).square()
        return f / math.sin(math.pi / 2 / (1 + self.offset)) ** 2 if self.is_normalised else f

    def level(self, t: Tensor) -> NoiseLevel:
        rate = math.pi / 2 / (1 + self.offset)
        angle, co_angle = rate * (t + self.offset), rate * (1 - t)  # they add up to pi/2
        cos = torch.sin(co_angle)
        beta = 2 * rate * torch.sin(angle) / cos
        if not self.is_normalised:
            gamma = 2 * torch.log(torch.sin(angle) / cos)
            return NoiseLevel(gamma, 2 * rate / (torch.sin(angle) * cos), beta)
        # 1 - cos^2(a)/cos^2(b) = sin(a + b) sin(a - b) / cos^2(b), a - b = rate t: no cancellation at t = 0.
        total, difference = rate * (t + 2 * self.offset), rate * t
        gamma = torch.log(torch.sin(total) * torch.sin(difference)) - 2 * torch.log(cos)
        return NoiseLevel(gamma, rate * (1 / torch.tan(total) + 1 / torch.tan(difference)) + beta, beta)
