"""Schedules that give alpha and sigma as they are, where variance is not preserved: degradations, blurring."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.schedules.base import AnySchedule, NoiseLevel, Schedule, checked_times


@dataclass(frozen=True, eq=False)
class Attenuation:
    """Law of c_t given c_0 at n times, each field `(n, 1)` or `(n, dim)`, float64.

    Attributes:
        alpha: signal factor; may be 0 or negative.
        sigma: noise standard deviation; may be 0.
    """

    alpha: Tensor
    sigma: Tensor


class ExplicitSchedule(AnySchedule, ABC):
    """alpha(t) and sigma(t) for t in [0, 1]."""

    is_scalar: bool = False

    @property
    def kinks(self) -> tuple[float, ...]:
        return () if self.num_levels is None else tuple(k / self.num_levels for k in range(1, self.num_levels))

    def __call__(self, t: Float[Tensor, "n"]) -> Attenuation:
        """alpha and sigma at times `t`, on t's device; refuses times like `checked_times`."""
        return self.attenuation(checked_times(t))

    @abstractmethod
    def attenuation(self, t: Float[Tensor, "n 1"]) -> Attenuation:
        """alpha and sigma at valid float64 times, differentiable in t."""

    def rates(self, t: Float[Tensor, "n"]) -> tuple[Tensor, Tensor]:
        """(d alpha / dt, d sigma / dt), shaped like `attenuation`'s fields."""

        def both(at: Tensor) -> tuple[Tensor, Tensor]:
            level = self.attenuation(at)
            return level.alpha, level.sigma

        times = t.to(torch.float64)[:, None]
        _, rates = torch.func.jvp(both, (times,), (torch.ones_like(times),))[:2]
        return rates[0], rates[1]


class RescaledSchedule(Schedule):
    """The noise level gamma = log(sigma^2 / alpha^2) of an explicit schedule, for c_t / sqrt(alpha^2 + sigma^2)."""

    def __init__(self, explicit: ExplicitSchedule) -> None:
        self.explicit = explicit
        self.is_scalar = explicit.is_scalar

    @property
    def kinks(self) -> tuple[float, ...]:
        return self.explicit.kinks

    def level(self, t: Float[Tensor, "n 1"]) -> NoiseLevel:
        level = self.explicit.attenuation(t)
        alpha_rate, sigma_rate = self.explicit.rates(t[:, 0])
        gamma = 2 * torch.log(level.sigma / level.alpha)
        d_gamma = 2 * (sigma_rate / level.sigma - alpha_rate / level.alpha)
        return NoiseLevel(gamma, d_gamma, torch.sigmoid(gamma) * d_gamma)
