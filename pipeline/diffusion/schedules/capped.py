"""A schedule that diverges at t = 1, cut at a finite noise level."""

import torch
from torch import Tensor

from pipeline.diffusion.schedules.base import NoiseLevel, Schedule


class Capped(Schedule):
    """gamma(t) = min(gamma_inner(t), gamma_max); constant, with d_gamma = beta = 0, from there on.

    Args:
        inner: scalar schedule, strictly rising.
        gamma_max: the bound; it is reached when gamma_inner(1) lies above.
    """

    def __init__(self, inner: Schedule, gamma_max: float) -> None:
        self.inner = inner
        self.gamma_max = gamma_max

    def level(self, t: Tensor) -> NoiseLevel:
        inner = self.inner.level(t)
        is_cut = ~(inner.gamma <= self.gamma_max)
        return NoiseLevel(
            torch.where(is_cut, self.gamma_max, inner.gamma),
            torch.where(is_cut, 0.0, inner.d_gamma),
            torch.where(is_cut, 0.0, inner.beta),
        )

    @property
    def kinks(self) -> tuple[float, ...]:
        low, high = 0.0, 1.0
        if float(self._gamma(high)) <= self.gamma_max:
            return self.inner.kinks
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if float(self._gamma(middle)) <= self.gamma_max else (low, middle)
        return (*[kink for kink in self.inner.kinks if kink < low], low)

    def _gamma(self, t: float) -> Tensor:
        return self.inner.level(torch.tensor([[t]], dtype=torch.float64)).gamma
