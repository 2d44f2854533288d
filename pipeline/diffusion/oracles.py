"""Exact predictors without parameters: Gaussian data and mixtures of diagonal Gaussians, in components.

They play the part of a trained network, so that kernels, likelihoods and guidance can be judged against closed forms.
Means and variances are those of the centred components c = B (x - m) of the process.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.processes import AnyMarginal, Process, Time, as_times, diagonal


class GaussianOracle:
    """Exact predictor for c_0 ~ N(mean, diag variances), `(dim,)` each."""

    def __init__(self, process: Process, mean: Tensor, variances: Tensor) -> None:
        self.process = process
        self.mean = mean.to(torch.float64)
        self.variances = variances.to(torch.float64)

    def __call__(self, u_t: Float[Tensor, "batch J dim"], t: Time, cond: object = None) -> Prediction:
        """The posterior mean of the noise, E[eps | u_t], in u_t's dtype."""
        c = u_t[:, 0].to(torch.float64)
        m = _marginal(self.process, t, c)
        eps = m.sigma * (c - m.alpha * self.mean.to(c.device)) / self._spread(m)
        return Prediction("eps", eps.to(u_t.dtype), u_t[:, 0], m)

    def log_prob(self, c_t: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, "batch"]:
        """log p_t(c_t) in nats, float64."""
        c = c_t.to(torch.float64)
        m = _marginal(self.process, t, c)
        return _log_normal(c - m.alpha * self.mean.to(c.device), self._spread(m)).sum(dim=1)

    def flow(self, c: Float[Tensor, "batch dim"], t: Time, u: Time) -> Float[Tensor, "batch dim"]:
        """Where the probability-flow ODE carries c from time t to time u, float64 (exact for any schedule)."""
        c = c.to(torch.float64)
        start, end = _marginal(self.process, t, c), _marginal(self.process, u, c)
        mean = self.mean.to(c.device)
        return end.alpha * mean + torch.sqrt(self._spread(end) / self._spread(start)) * (c - start.alpha * mean)

    def _spread(self, m: AnyMarginal) -> Tensor:
        """Variance of c_t, `(n, dim)`."""
        return m.alpha.square() * self.variances.to(m.alpha.device) + m.sigma.square()


class MixtureOracle:
    """Exact predictor for c_0 from a mixture of K diagonal Gaussians.

    Args:
        process: forward process. weights: `(K,)`, summing to 1. means, variances: `(K, dim)`.
    """

    def __init__(self, process: Process, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        self.process = process
        self.weights = weights.to(torch.float64)
        self.means = means.to(torch.float64)
        self.variances = variances.to(torch.float64)

    def __call__(self, u_t: Float[Tensor, "batch J dim"], t: Time, cond: object = None) -> Prediction:
        """The posterior mean of the noise, E[eps | u_t], in u_t's dtype."""
        c = u_t[:, 0].to(torch.float64)
        m = _marginal(self.process, t, c)
        residual, spread, log_joint = self._parts(c, m)
        responsibility = torch.softmax(log_joint, dim=1)[:, :, None]
        eps = m.sigma * (responsibility * residual / spread).sum(dim=1)
        return Prediction("eps", eps.to(u_t.dtype), u_t[:, 0], m)

    def log_prob(self, c_t: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, "batch"]:
        """log p_t(c_t) in nats, float64."""
        c = c_t.to(torch.float64)
        return torch.logsumexp(self._parts(c, _marginal(self.process, t, c))[2], dim=1)

    def _parts(self, c: Tensor, m: AnyMarginal) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals and variances `(batch, K, dim)`, log weight + log density `(batch, K)`."""
        alpha, sigma = m.alpha[:, None, :], m.sigma[:, None, :]
        residual = c[:, None, :] - alpha * self.means.to(c.device)
        spread = alpha.square() * self.variances.to(c.device) + sigma.square()
        log_joint = self.weights.to(c.device).log() + _log_normal(residual, spread).sum(dim=2)
        return residual, spread, log_joint


def gaussian(process: Process, mean: Tensor, variances: Tensor) -> GaussianOracle:
    """Exact predictor for Gaussian data with diagonal covariance in components."""
    return GaussianOracle(process, mean, variances)


def mixture(process: Process, weights: Tensor, means: Tensor, variances: Tensor) -> MixtureOracle:
    """Exact predictor for a mixture of Gaussians, each diagonal in components."""
    return MixtureOracle(process, weights, means, variances)


def _marginal(process: Process, t: Time, c: Tensor) -> AnyMarginal:
    return diagonal(process).marginal(as_times(t).to(c.device))


def _log_normal(residual: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (residual.square() / variance + torch.log(2 * math.pi * variance))
