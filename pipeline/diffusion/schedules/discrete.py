"""Schedules given by T discrete levels, continued to all times."""

import torch
from torch import Tensor

from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, level_from


class DiscreteLevels(Schedule):
    """Zero-based level j is t = (j + 1)/T and t = 0 is clean data.

    Between levels gamma is linear in t; below 1/T alpha_bar = alpha^2 is linear in t, so gamma(0) = -inf.

    Args:
        betas: `(T,)` float64, 1 - alpha_bar_j / alpha_bar_{j-1}, each in (0, 1).
    """

    def __init__(self, betas: Tensor) -> None:
        log_alpha_bar = torch.log1p(-betas.to(torch.float64)).cumsum(0)
        self._num_levels = betas.shape[0]
        gamma = torch.log(-torch.expm1(log_alpha_bar)) - log_alpha_bar
        self._gamma = Constant(gamma)
        self._slope = Constant(gamma.diff() * self.num_levels)
        self._first_noise = float(-torch.expm1(log_alpha_bar[0]))

    @property
    def num_levels(self) -> int:
        return self._num_levels

    def level(self, t: Tensor) -> NoiseLevel:
        position = t * self.num_levels
        nearest = position.round()
        position = torch.where((position - nearest).abs() < 1e-9, nearest, position)
        # First piece: 1 - alpha_bar = position * first_noise.
        noise = position.clamp(max=1.0) * self._first_noise
        gamma = torch.log(noise) - torch.log1p(-noise)
        beta = self.num_levels * self._first_noise / (1 - noise)
        first = NoiseLevel(gamma, beta / noise, beta)
        if self.num_levels == 1:
            return first
        index = (position.floor() - 1).clamp(0, self.num_levels - 2).long()
        slope = self._slope.on(t.device)[index]
        later_gamma = self._gamma.on(t.device)[index] + slope * (position - 1 - index) / self.num_levels
        later = level_from(later_gamma, slope)
        is_first = position < 1
        return NoiseLevel(
            torch.where(is_first, first.gamma, later.gamma),
            torch.where(is_first, first.d_gamma, later.d_gamma),
            torch.where(is_first, first.beta, later.beta),
        )

    @property
    def kinks(self) -> tuple[float, ...]:
        return tuple((j + 1) / self.num_levels for j in range(self.num_levels - 1))


def betas_from_alpha_bar(alpha_bar: Tensor, largest: float = 0.999) -> Tensor:
    """beta_j = min(1 - alpha_bar_j / alpha_bar_{j-1}, largest) (Nichol & Dhariwal 2021, eq. 17).

    Args:
        alpha_bar: `(T + 1,)` float64 at t = 0, 1/T ... 1.
        largest: cuts the singular last steps.
    """
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)
