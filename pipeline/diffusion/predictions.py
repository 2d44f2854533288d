"""What a network predicted, and lossless conversion between eps, x_0, v and score; x_prev where levels are walked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.processes.marginal import AnyMarginal

Target = Literal["eps", "x0", "v", "score", "x_prev"]
TARGETS: tuple[str, ...] = get_args(Target)
NOISE_TARGETS: tuple[str, ...] = TARGETS[:4]
"""Targets that say x_0 and noise alike, and so each other."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A prediction in its native target at c_t = alpha x_0 + sigma eps, all in components.

    eps has unit variance; score = -eps / sigma; v = alpha eps - (sigma/s) (x_0/s) in white coordinates. Conversions
    are computed in float64 and returned in the wider dtype of `value` and `c_t`; the native target is returned as
    it is. Where sigma = 0, eps cannot be known from x_0 and is 0. v is defined where variance is preserved.

    `x_prev` is the noiseless state D(x_0, s) of an earlier time s. It gives x_0 by division by alpha_s (0 where
    nothing is left), and neither eps nor v nor score.

    Attributes:
        target: what `value` is. value: `(batch, dim)`. c_t: `(batch, dim)`, the point of prediction.
        marginal: at the time of prediction, n = batch or 1; None where the process is not diagonal.
        earlier: at the time s of an `x_prev`; None where the process is not diagonal, or there is no s.
    """

    target: Target
    value: Float[Tensor, "batch dim"]
    c_t: Float[Tensor, "batch dim"]
    marginal: AnyMarginal | None
    earlier: AnyMarginal | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, found {self.target!r}")

    @property
    def x_prev(self) -> Float[Tensor, "batch dim"]:
        """The predicted D(x_0, s); native only."""
        if self.target != "x_prev":
            raise ValueError(f"a prediction of {self.target} says nothing about an earlier level; use x_0")
        return self.value

    @cached_property
    def x_0(self) -> Float[Tensor, "batch dim"]:
        """Clean components."""
        if self.target == "x0":
            return self.value
        if self.target == "x_prev":
            alpha = self._known(self.earlier).alpha
            return self._computed(lambda c, value: _quotient(value, alpha.expand_as(value)))
        m = self._known(self.marginal)
        if self.target == "v":
            return self._computed(lambda c, v: m.alpha * c - m.sigma * v)
        if self.target == "eps":
            return self._computed(lambda c, eps: (c - m.sigma * eps) / m.alpha)
        return self._computed(lambda c, score: (c + m.sigma.square() * score) / m.alpha)

    @cached_property
    def eps(self) -> Float[Tensor, "batch dim"]:
        """Unit noise."""
        if self.target == "eps":
            return self.value
        m = self._gaussian
        if self.target == "v":
            return self._computed(lambda c, v: m.sigma / m.scale.square() * c + m.alpha * v)
        if self.target == "score":
            return self._computed(lambda c, score: -m.sigma * score)
        return self._computed(lambda c, x_0: _quotient(c - m.alpha * x_0, m.sigma))

    @cached_property
    def v(self) -> Float[Tensor, "batch dim"]:
        """Velocity alpha eps - (sigma/s) (x_0/s) of the white coordinates."""
        if self.target == "v":
            return self.value
        m = self._gaussian
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
        if self.target == "score":
            return self.value
        m = self._gaussian
        if self.target == "eps":
            return self._computed(lambda c, eps: -eps / m.sigma)
        if self.target == "v":
            return self._computed(lambda c, v: -(c / m.scale.square() + m.alpha * v / m.sigma))
        return self._computed(lambda c, x_0: _quotient(m.alpha * x_0 - c, m.sigma.square()))

    @property
    def _gaussian(self) -> AnyMarginal:
        if self.target == "x_prev":
            raise ValueError("a prediction of x_prev has no eps, v or score")
        return self._known(self.marginal)

    @staticmethod
    def _known(marginal: AnyMarginal | None) -> AnyMarginal:
        if marginal is None:
            raise ValueError("without the law of the state (the process is not diagonal) predictions are not converted")
        return marginal

    def _computed(self, formula: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        dtype = torch.promote_types(self.value.dtype, self.c_t.dtype)
        return formula(self.c_t.to(torch.float64), self.value.to(torch.float64)).to(dtype)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0; gradients stay finite."""
    is_zero = denominator == 0
    return torch.where(is_zero, 0.0, numerator / torch.where(is_zero, 1.0, denominator))
