"""The law of u_t given x_0 at n times, per component, with everything that can overflow kept in logs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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

    @property
    def alpha_rate(self) -> Tensor:
        """d alpha / dt."""
        return -0.5 * self.beta * self.alpha

    @property
    def sigma_rate(self) -> Tensor:
        """d sigma / dt."""
        return 0.5 * self.d_gamma * torch.exp(self.log_alpha2) * self.sigma

    def to(self, device: torch.device) -> "Marginal":
        """The same law on another device."""
        if self.gamma.device == device:
            return self
        moved = (self.gamma, self.d_gamma, self.beta, self.scale, self.log_variance_white)
        return Marginal(*(part.to(device) for part in moved))


@dataclass(frozen=True, eq=False)
class ExplicitMarginal:
    """c_t | c_0 ~ N(alpha c_0, sigma^2) with alpha and sigma given as they are; float64, J = 1.

    Attributes:
        alpha: signal factor, `(n, 1 | dim)`; may be 0 or negative.
        sigma: noise standard deviation, `(n, 1 | dim)`; 0 where the law is a point.
        log_variances: log data variance, `(1, 1 | dim)`; 0 without statistics.
        rates: computes (d alpha / dt, d sigma / dt).
    """

    alpha: Tensor
    sigma: Tensor
    log_variances: Tensor
    rates: Callable[[], tuple[Tensor, Tensor]]

    @property
    def scale(self) -> Tensor:
        """s = 1, `(1, 1)`: sigma is absolute."""
        return torch.ones(1, 1, dtype=torch.float64, device=self.alpha.device)

    @cached_property
    def log_alpha2(self) -> Tensor:
        """log alpha^2, -inf where alpha = 0."""
        return 2 * torch.log(self.alpha.abs())

    @cached_property
    def log_sigma2(self) -> Tensor:
        """log sigma^2, -inf where there is no noise."""
        return 2 * torch.log(self.sigma)

    @cached_property
    def gamma(self) -> Tensor:
        """log(sigma^2 / alpha^2), `(n, 1 | dim)`: -inf without noise, also where nothing is left of the signal."""
        return torch.where(self.sigma == 0, -torch.inf, self.log_sigma2 - self.log_alpha2)

    @cached_property
    def log_snr(self) -> Tensor:
        """log data variance - gamma, `(n, 1 | dim)`."""
        return self.log_variances - self.gamma

    @cached_property
    def Phi(self) -> Tensor:
        """Mean factor of the state, `(n, J, 1 | dim)`."""
        return self.alpha[:, None, :]

    @cached_property
    def Sigma(self) -> Tensor:
        """Covariance of the state, `(n, J, J, 1 | dim)`."""
        return self.sigma.square()[:, None, None, :]

    @cached_property
    def _both_rates(self) -> tuple[Tensor, Tensor]:
        return self.rates()

    @property
    def alpha_rate(self) -> Tensor:
        """d alpha / dt."""
        return self._both_rates[0].to(self.alpha.device)

    @property
    def sigma_rate(self) -> Tensor:
        """d sigma / dt."""
        return self._both_rates[1].to(self.alpha.device)

    @property
    def d_gamma(self) -> Tensor:
        """d gamma / dt, where there are noise and signal."""
        return 2 * (self.sigma_rate / self.sigma - self.alpha_rate / self.alpha)

    def to(self, device: torch.device) -> "ExplicitMarginal":
        """The same law on another device."""
        if self.alpha.device == device:
            return self
        return replace(
            self,
            alpha=self.alpha.to(device),
            sigma=self.sigma.to(device),
            log_variances=self.log_variances.to(device),
        )


AnyMarginal = Marginal | ExplicitMarginal


def is_still(earlier: AnyMarginal, later: AnyMarginal) -> Tensor:
    """Where a component's law does not change between two times, `(n, 1 | dim)`, bool."""
    if isinstance(earlier, Marginal) and isinstance(later, Marginal):
        return earlier.gamma == later.gamma
    return (earlier.alpha == later.alpha) & (earlier.sigma == later.sigma)


def transition(earlier: AnyMarginal, later: AnyMarginal) -> tuple[Tensor, Tensor]:
    """F and Q of c_t = F c_s + N(0, Q), each `(n, 1 | dim)`; F = 0 where nothing was left at s already."""
    if isinstance(earlier, Marginal) and isinstance(later, Marginal):
        log_ratio = later.log_alpha2 - earlier.log_alpha2
        return torch.exp(log_ratio / 2), later.scale.square() * -torch.expm1(log_ratio)
    has_signal = earlier.alpha != 0
    F = torch.where(has_signal, later.alpha / torch.where(has_signal, earlier.alpha, 1.0), 0.0)
    still = is_still(earlier, later)
    Q = (later.sigma.square() - (F * earlier.sigma).square()).clamp(min=0.0)
    return torch.where(still, 1.0, F), torch.where(still, 0.0, Q)
