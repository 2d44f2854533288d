"""What a network predicted, and lossless conversion between eps, x_0, v and score."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.processes.marginal import Marginal

Target = Literal["eps", "x0", "v", "score"]
TARGETS: tuple[str, ...] = get_args(Target)


@dataclass(frozen=True, eq=False)
class Prediction:
    """A prediction in its native target at c_t = alpha x_0 + sigma eps, all in components.

    eps has unit variance; score = -eps / sigma; v = alpha eps - (sigma/s) (x_0/s) in white coordinates. Conversions
    are computed in float64 and returned in the wider dtype of `value` and `c_t`; the native target is returned as
    it is. Where sigma = 0, eps cannot be known from x_0 and is 0.

    Attributes:
        target: what `value` is. value: `(batch, dim)`. c_t: `(batch, dim)`, the point of prediction.
        marginal: at the time of prediction, n = batch or 1.
    """

    target: Target
    value: Float[Tensor, "batch dim"]
    c_t: Float[Tensor, "batch dim"]
    marginal: Marginal

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, found {self.target!r}")

    @cached_property
    def x_0(self) -> Float[Tensor, "batch dim"]:
        """Clean components."""
        m = self.marginal
        if self.target == "x0":
            return self.value
        if self.target == "v":
            return self._computed(lambda c, v: m.alpha * c - m.sigma * v)
        if self.target == "eps":
            return self._computed(lambda c, eps: (c - m.sigma * eps) / m.alpha)
        return self._computed(lambda c, score: (c + m.sigma.square() * score) / m.alpha)

    @cached_property
    def eps(self) -> Float[Tensor, "batch dim"]:
        """Unit noise."""
        m = self.marginal
        if self.target == "eps":
            return self.value
        if self.target == "v":
            return self._computed(lambda c, v: m.sigma / m.scale.square() * c + m.alpha * v)
        if self.target == "score":
            return self._computed(lambda c, score: -m.sigma * score)
        return self._computed(lambda c, x_0: _quotient(c - m.alpha * x_0, m.sigma))

    @cached_property
    def v(self) -> Float[Tensor, "batch dim"]:
        """Velocity alpha eps - (sigma/s) (x_0/s) of the white coordinates."""
        m = self.marginal
        if self.target == "v":
            return self.value
        s = m.scale
        # v alpha = eps - (sigma/s) (c/s), and v sigma = alpha c - x_0.
        if self.target == "eps":
            return self._computed(lambda c, eps: (eps - m.sigma / s * (c / s)) / m.alpha)
        if self.target == "score":
            return self._computed(lambda c, score: -m.sigma * (score + c / s.square()) / m.alpha)
        return self._computed(lambda c, x_0: _quotient(m.alpha * c - x_0, m.sigma))

    @cached_property
    def score(self) -> Float[Tensor, "batch dim"]:
        """Gradient of log p_t with respect to c_t."""
        m = self.marginal
        if self.target == "score":
            return self.value
        if self.target == "eps":
            return self._computed(lambda c, eps: -eps / m.sigma)
        if self.target == "v":
            return self._computed(lambda c, v: -(c / m.scale.square() + m.alpha * v / m.sigma))
        return self._computed(lambda c, x_0: _quotient(m.alpha * x_0 - c, m.sigma.square()))

    def _computed(self, formula: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        dtype = torch.promote_types(self.value.dtype, self.c_t.dtype)
        return formula(self.c_t.to(torch.float64), self.value.to(torch.float64)).to(dtype)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0; gradients stay finite."""
    is_zero = denominator == 0
    return torch.where(is_zero, 0.0, numerator / torch.where(is_zero, 1.0, denominator))
