"""Sigmoid schedule of Jabri 2022 (RIN), in the form of Chen 2023, algorithm 1."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.capped import Capped
from pipeline.diffusion.schedules.discrete import DiscreteLevels, betas_from_alpha_bar


class SigmoidSpec(ScheduleSpec):
    """alpha_bar(t) = (S(end) - S(start + t (end - start))) / (S(end) - S(start)), S(x) = sigmoid(x / tau).

    With `num_levels` the betas of the levels are cut at 0.999; without, gamma is cut at `gamma_max`, because
    alpha_bar(1) = 0.
    """

    kind: Literal["sigmoid"] = "sigmoid"
    start: float = -3.0
    end: float = 3.0
    tau: Annotated[float, Field(gt=0.0)] = 1.0
    num_levels: Annotated[int, Field(ge=1)] | None = None
    gamma_max: Annotated[float, Field(gt=0.0)] = 20.0

    @model_validator(mode="after")
    def _rises(self) -> "SigmoidSpec":
        if self.start >= self.end:
            raise ValueError("start must be smaller than end")
        return self

    def build(self, context: ScheduleContext) -> Schedule:
        schedule = Sigmoid(self.start / self.tau, self.end / self.tau)
        if self.num_levels is None:
            return Capped(schedule, self.gamma_max)
        t = torch.linspace(0.0, 1.0, self.num_levels + 1, dtype=torch.float64)
        return DiscreteLevels(betas_from_alpha_bar(schedule.alpha_bar(t)))


class Sigmoid(Schedule):
    """The uncut schedule between the arguments `start` and `end`; gamma(0) = -inf, gamma(1) = +inf."""

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end

    def alpha_bar(self, t: Tensor) -> Tensor:
        """sigmoid(-gamma), exactly 1 at t = 0."""
        return torch.sigmoid(-self.level(t).gamma)

    def level(self, t: Tensor) -> NoiseLevel:
        # S(x) - S(y) = sinh((x - y)/2) / (2 cosh(x/2) cosh(y/2)): no cancellation at either end.
        span = self.end - self.start
        past, left = span * t / 2, span * (1 - t) / 2
        half_end = torch.tensor(self.end / 2, dtype=torch.float64, device=t.device)
        half_start = torch.tensor(self.start / 2, dtype=torch.float64, device=t.device)
        gamma = torch.log(torch.sinh(past) / torch.sinh(left)) + torch.log(half_end.cosh() / half_start.cosh())
        d_gamma = span / 2 * (1 / torch.tanh(past) + 1 / torch.tanh(left))
        beta = span / 2 * half_end.cosh() / (torch.cosh(self.start / 2 + past) * torch.sinh(left))
        return NoiseLevel(gamma, d_gamma, beta)
