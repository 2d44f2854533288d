"""The law of u_t given x_0 at n times, per component, with everything that can overflow kept in logs."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, eq=False)
class Marginal:
    """c_t | c_0 ~ N(alpha c_0, sigma^2) with sigma = s sqrt(sigmoid(gamma)); float64, J = 1.

    Attributes:
        gamma: log(sigma^2 / alpha^2) before s, `(n, 1 | dim)`.
        d_gamma: its time derivative, same shape.
        beta: -d log(alpha^2) / dt = sigmoid(gamma) d_gamma, same shape.
        scale: s, `(1, 1 | dim)`.
        log_variance_white: log(data variance / s^2), `(1, 1 | dim)`; 0 without statistics.
    """

    gamma: Tensor
    d_gamma: Tensor
    beta: Tensor
    scale: Tensor
    log_variance_white: Tensor

    @cached_property
    def log_alpha2(self) -> Tensor:
        """log alpha^2 = -softplus(gamma), finite down to |gamma| of any size."""
        return logsigmoid(-self.gamma)

    @cached_property
    def log_sigma2(self) -> Tensor:
        """log (sigma/s)^2 = -softplus(-gamma); -inf where gamma = -inf."""
        return logsigmoid(self.gamma)

    @cached_property
    def alpha(self) -> Tensor:
        """Signal factor, `(n, 1 | dim)`, s left out."""
        return torch.exp(self.log_alpha2 / 2)

    @cached_property
    def sigma(self) -> Tensor:
        """Noise standard deviation s sqrt(sigmoid(gamma)), `(n, 1 | dim)`."""
        return self.scale * torch.exp(self.log_sigma2 / 2)

    @cached_property
    def log_snr(self) -> Tensor:
        """log(data variance / s^2) - gamma, `(n, 1 | dim)`."""
        return self.log_variance_white - self.gamma

    @cached_property
    def Phi(self) -> Tensor:
        """Mean factor of the state, `(n, J, 1 | dim)`."""
        return self.alpha[:, None, :]

    @cached_property
    def Sigma(self) -> Tensor:
        """Covariance of the state, `(n, J, J, 1 | dim)`."""
        return (self.scale.square() * torch.exp(self.log_sigma2))[:, None, None, :]
