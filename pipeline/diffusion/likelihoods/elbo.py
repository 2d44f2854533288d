"""Continuous variational bound (Kingma et al. 2021, eqs. 11-15), per component as in Gerdes et al. 2024.

    -log p(x) <= diffusion + prior_kl + reconstruction,
    diffusion = integral over t of 1/2 sum_i gamma_i'(t) E|eps_i - eps_hat_i|^2,
    prior_kl = KL(q(c_1 | c_0) || prior),
    reconstruction = -E log p(c_0 | c_{t_0}), t_0 = 0, or t_min where gamma(0) = -inf.

The decoder p(c_0 | c_{t_0}) is the posterior of N(mean, diag Sigma), the data's own moments. Of the diffusion term only
the difference to the predictor of that Gaussian, eps_G, is drawn; the rest is known. With
S_i = sigmoid(log SNR_i) and q_i = (c_0 - mean)_i^2 / Sigma_i

    eps - eps_G = S eps - sqrt(S (1 - S)) (c_0 - mean) / sqrt(Sigma),
    integral of 1/2 gamma' E|eps - eps_G|^2 = 1/2 [softplus(log SNR) + (q - 1) S] from t = 1 to t = t_0.

For Gaussian data and their exact predictor all three terms are therefore exact, and for each x the bound is
-log p(x) + KL(q(c_1 | c_0) || prior) - KL(q(c_1 | c_0) || p_1), whatever the schedule. On
the handwritten digits, with a trained network and 16 times, drawing the difference alone leaves an image a deviation of
0.03 bits/dim instead of 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.config import Spec
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.draws import systematic_error, unit_noise
from pipeline.diffusion.likelihoods.gaussian_terms import (
    data_variances,
    error_beyond_gaussian,
    gaussian_diffusion,
    prior_kl,
)
from pipeline.diffusion.likelihoods.ode import diagonal_process, row_by_row
from pipeline.diffusion.likelihoods.paths import times_of_gamma
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import AnyMarginal, Process, SpectralProcess
from pipeline.diffusion.randomness import NoiseStream


class ElboSpec(Spec):
    """Lower bound of the log density by denoising at random times; the same draws for every process."""

    kind: Literal["elbo"] = "elbo"
    num_times: PositiveInt = 16  # times per image, evenly spread from one random offset; one evaluation each
    t_min: float = Field(1e-5, gt=0.0, lt=1.0)  # smallest time where gamma(0) is infinite (else 0)
    quantisation: PositiveInt | None = None  # levels of dequantised data on [-1, 1]; adds log2(levels / 2) bits/dim
    seed: int = 0  # of times and noise


@dataclass(frozen=True)
class Elbo:
    """Lower bound of log p(x) in nats per example; -total = diffusion + prior_kl + reconstruction.

    Attributes:
        total: the bound, `(batch,)` float64.
        diffusion: denoising error along the path, weighted; estimated.
        prior_kl: what is left of x at t = 1; exact.
        reconstruction: what is lost of x at t = t_0; exact.
        bits_per_dim: -total/(D ln 2), plus log2(quantisation/2) for quantised data.
        nfe: predictor evaluations per example.
        num_times: draws per example.
        se: standard error of the estimate in nats, `(batch,)`; None for a single draw.
    """

    total: Float[Tensor, " batch"]
    diffusion: Float[Tensor, " batch"]
    prior_kl: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    bits_per_dim: Float[Tensor, " batch"]
    nfe: int
    num_times: int
    se: Float[Tensor, " batch"] | None


@torch.no_grad()
def elbo_log_likelihood(
    process: Process,
    predictor: Denoiser,
    x: Float[Tensor, "batch *shape"],
    spec: ElboSpec,
    *,
    indices: Sequence[int] | None = None,
    cond: Condition | None = None,
) -> Elbo:
    """The bound at x, float64; its draws are functions of (seed, example index) alone, so that processes are paired.

    A component-wise schedule is followed uniformly in t, a scalar one uniformly in gamma: weights 1/t near clean data
    would otherwise make the estimate useless. Where gamma is linear in t both are the same.

    Args:
        process: forward process with J = 1 and a Gaussian terminal distribution, N(0, diag s^2) if it has none. One
            that does not preserve variance is divided by sqrt(alpha^2 + sigma^2) where it meets the prior.
        predictor: of any target that says the noise.
        x: continuous data; dequantisation is the caller's.
        spec: number of times, seed.
        indices: example indices, the keys of the draws; 0 .. batch-1 by default.
        cond: condition of every evaluation.

    Raises:
        ConfigError: the process is not diagonal, has levels without noise, or its prior is not Gaussian.
    """
    own = diagonal_process(process)
    preserving = own.variance_preserving()
    rows = list(range(len(x)) if indices is None else indices)
    starts_finite = bool(torch.isfinite(preserving.marginal(0.0).gamma).all())
    t_0 = 0.0 if starts_finite else spec.t_min
    first, last = (preserving.marginal(t).to(x.device) for t in (t_0, 1.0))
    c_0 = row_by_row(own.to_components, x.to(torch.float64))
    deviation = c_0 - own.mean_components.to(x.device)
    white = deviation / data_variances(own).sqrt().to(x.device)
    t, weight = _times(preserving, spec, rows, t_0)
    noise = unit_noise(own, spec.seed, rows, range(spec.num_times), "elbo_noise", x.device)
    drawn = torch.zeros_like(c_0)
    draws: list[Tensor] = []
    for k in range(spec.num_times):
        m = own.marginal(t[:, k]).to(x.device)
        gained = error_beyond_gaussian(predictor, m, t[:, k], c_0=c_0, noise=noise[k], white=white, cond=cond)
        rate = (1.0 - t_0) * m.d_gamma if weight is None else weight.to(x.device)
        weighted = 0.5 * rate * gained
        drawn = drawn + weighted
        draws.append(weighted.sum(1))
    diffusion = (drawn / spec.num_times + gaussian_diffusion(first, last, white)).sum(1)
    left = prior_kl(preserving, last, c_0)
    reconstruction = _reconstruction(first, white, data_variances(own).log().to(x.device))
    total = -(diffusion + left + reconstruction)
    offset = math.log2(spec.quantisation / 2) if spec.quantisation else 0.0
    return Elbo(
        total=total,
        diffusion=diffusion,
        prior_kl=left,
        reconstruction=reconstruction,
        bits_per_dim=-total / (own.dim * math.log(2)) + offset,
        nfe=spec.num_times,
        num_times=spec.num_times,
        se=systematic_error(torch.stack(draws)),
    )


def _times(
    process: SpectralProcess, spec: ElboSpec, rows: Sequence[int], t_0: float
) -> tuple[Float[Tensor, "batch times"], Float[Tensor, "1 1"] | None]:
    """Times in [t_0, 1) from one offset per example; and gamma' times the time per draw where that is constant."""
    offset = NoiseStream(spec.seed).uniform(rows, 0, "elbo_times", (1,), torch.float64)
    u = (offset + torch.arange(spec.num_times, dtype=torch.float64)) / spec.num_times
    if not process.schedule.is_scalar:
        return t_0 + (1.0 - t_0) * u, None
    start, end = process.marginal(t_0).gamma, process.marginal(1.0).gamma
    return times_of_gamma(process, start + (end - start) * u), end - start


def _reconstruction(
    first: AnyMarginal, white: Float[Tensor, "batch dim"], log_variances: Float[Tensor, " dim"]
) -> Float[Tensor, " batch"]:
    """-E log N(c_0; posterior mean, posterior variance) over the noise, with posterior variance Sigma (1 - S)."""
    signal, noise = torch.sigmoid(first.log_snr), torch.sigmoid(-first.log_snr)
    log_posterior = math.log(2 * math.pi) + log_variances - softplus(first.log_snr)
    return 0.5 * (log_posterior + noise * white.square() + signal).sum(1)
