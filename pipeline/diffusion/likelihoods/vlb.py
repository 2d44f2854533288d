"""Variational bound of discrete data: a decoder of levels at the data end (Kingma et al. 2021; Ho et al. 2020).

    -log P(x) <= reconstruction + diffusion + prior_kl,
    reconstruction = -E log p(x | c_{t_0}),
    diffusion = sum over steps s < t of a chain of E KL(q(c_s | c_t, c_0) || q(c_s | c_t, c_0_hat)),
              = 1/2 sum_i expm1(gamma_i(t) - gamma_i(s)) E|eps_i - eps_hat_i|^2 per step,
              = integral over t of 1/2 sum_i gamma_i'(t) E|eps_i - eps_hat_i|^2 in continuous time,
    prior_kl = KL(q(c_1 | c_0) || prior).

Nothing is dequantised and no density is involved: the bound is of probabilities of levels. Diffusion and prior go by
components. The decoder multiplies over the entries of a datum and asks for the noise of each, in data space: for VDM's
softmax over the bins that is the noise of the estimate c_{t_0}/alpha carried back by the basis. If all components start
at the same sigma/alpha, as under a scalar schedule, this noise is white in every basis, and the decoder is VDM's. If
they do not, outside the pixel basis the noise of the entries is correlated; a decoder of each entry by itself, with its
own deviation, is still normalised, so the bound stays a bound. It is loose by what the correlations would tell: nothing
while the noise is well below a bin, about 1/2 (sum of log variances of the entries - log det of their covariance) once
it spans several.

As in `elbo`, only the difference to the Gaussian of the data's moments is drawn; its own part is known, in continuous
time by an antiderivative and on a chain by a sum over all steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.bound_paths import (
    BoundPath,
    chain_path,
    continuous_path,
    path_offsets,
    time_of_noise,
)
from pipeline.diffusion.likelihoods.decoders import (
    discretised_gaussian_log_prob,
    levels_of,
    pixel_deviation,
    softmax_log_prob,
)
from pipeline.diffusion.likelihoods.draws import (
    example_by_example,
    mean_of_draws,
    standard_error,
    systematic_error,
    unit_noise,
)
from pipeline.diffusion.likelihoods.gaussian_terms import data_variances, error_beyond_gaussian, prior_kl
from pipeline.diffusion.likelihoods.ode import diagonal_process, row_by_row
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, SpectralProcess

CLEAN_START_NOISE = 0.5
"""Noise in bins where continuous time begins if gamma(0) is infinite; VDM's gamma_min = -13.3 is 0.166 bins of 256."""

_CHUNK = 16  # draws whose noise is made together


class VlbSpec(Spec):
    """Upper bound of the negative log-probability of quantised data, without dequantisation (VDM's and DDPM's NLL).

    Attributes:
        num_levels: T of a chain over t = k/T. null: continuous time; for `discretised_gaussian` the levels of the
            process.
        decoder: of the levels at the data end. `softmax`: over the bins, around the noisy datum.
            `discretised_gaussian`: the mass of a Gaussian on each bin, around the prediction from level 1.
        variance: of the chain's reverse steps. `small`: the posterior's; `large`: beta.
        num_times: evaluations per image along the path. null: each step of the chain once.
        num_probes: noise draws of the reconstruction; one evaluation each for `discretised_gaussian`.
        start_noise: of the datum that `softmax` decodes, in bins (root mean square over its entries): the bound begins
            at the first time, or level, that has as much. Any choice gives a bound; below about half a bin, a network
            that does not know the levels pays 1/2 nat per unit of gamma and entry. null: t = 0; where gamma(0) is
            infinite half a bin, or level 1 of a chain.
        quantisation: levels of the data on [-1, 1]. null: 256; in a grid, those of the data set.
    """

    kind: Literal["vlb"] = "vlb"
    num_levels: PositiveInt | None = None
    decoder: Literal["softmax", "discretised_gaussian"] = "softmax"
    variance: Literal["small", "large"] = "small"
    num_times: PositiveInt | None = 16
    num_probes: PositiveInt = 2
    start_noise: PositiveFloat | None = None
    clip: bool = False  # predicted data are cut to [-1, 1] before they are used, as where DDPM's bits were published
    quantisation: int | None = Field(default=None, ge=2)
    seed: int = 0  # of times and noise

    @model_validator(mode="after")
    def _fits_together(self) -> "VlbSpec":
        if self.num_levels is None and self.decoder == "softmax":
            if self.variance == "large":
                raise ValueError("variance large belongs to a chain; give num_levels")
            if self.num_times is None:
                raise ValueError("continuous time has no steps to walk one by one; give num_times or num_levels")
        if self.start_noise is not None and self.decoder == "discretised_gaussian":
            raise ValueError("discretised_gaussian decodes from level 1; start_noise belongs to softmax")
        return self


@dataclass(frozen=True)
class Vlb:
    """Lower bound of log P(x) in nats per example; -total = diffusion + prior_kl + reconstruction.

    Attributes:
        total: the bound, `(batch,)` float64; log-probability of levels, never positive in expectation.
        diffusion: denoising error along the path, weighted; estimated.
        prior_kl: what is left of x at t = 1; exact.
        reconstruction: what is lost of x at t = t_0; estimated.
        bits_per_dim: -total/(D ln 2); nothing is added, the levels are counted themselves.
        nfe: predictor evaluations per example.
        num_times: draws of the diffusion term. num_probes: of the reconstruction.
        se: standard error of the estimate in nats, `(batch,)`; None where a term has a single draw.
    """

    total: Float[Tensor, " batch"]
    diffusion: Float[Tensor, " batch"]
    prior_kl: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    bits_per_dim: Float[Tensor, " batch"]
    nfe: int
    num_times: int
    num_probes: int
    se: Float[Tensor, " batch"] | None


@torch.no_grad()
def vlb_log_likelihood(
    process: Process,
    predictor: Denoiser,
    x: Float[Tensor, "batch *shape"],
    spec: VlbSpec,
    *,
    indices: Sequence[int] | None = None,
    cond: Condition | None = None,
) -> Vlb:
    """The bound at x, float64; its draws are functions of (seed, example index) alone, so that processes are paired.

    Args:
        process: forward process with J = 1 and a Gaussian terminal distribution, N(0, diag s^2) if it has none.
        predictor: of any target that says the noise.
        x: bin centres 2 (k + 1/2)/q - 1 of the levels k; float32 is exact enough. Never dequantised.
        spec: chain or continuous time, decoder, draws.
        indices: example indices, the keys of the draws; 0 .. batch-1 by default.
        cond: condition of every evaluation.

    Raises:
        ConfigError: the process is not diagonal, has levels without noise or that the chain does not meet, or its
            prior is not Gaussian; discretised_gaussian has no levels.
        ValueError: x are not the centres of q bins.
    """
    own = diagonal_process(process)
    preserving = own.variance_preserving()
    rows = list(range(len(x)) if indices is None else indices)
    quantisation = spec.quantisation or 256
    level = levels_of(x, quantisation)
    exact = ((2 * level + 1) / quantisation - 1).reshape(x.shape)
    c_0 = row_by_row(own.to_components, exact)
    white = (c_0 - own.mean_components.to(x.device)) / data_variances(own).sqrt().to(x.device)
    predictor = _clipped(predictor, own) if spec.clip else predictor
    path = _path(own, preserving, spec, rows)
    num_times = path.times.shape[1]
    drawn, draws = torch.zeros_like(c_0), torch.zeros(num_times, len(x), dtype=torch.float64, device=x.device)
    for first in range(0, num_times, _CHUNK):
        chunk = range(first, min(first + _CHUNK, num_times))
        noise = unit_noise(own, spec.seed, rows, chunk, "vlb_noise", x.device)
        for k in chunk:
            t = path.times[:, k]
            m = own.marginal(t).to(x.device)
            gained = error_beyond_gaussian(predictor, m, t, c_0=c_0, noise=noise[k - first], white=white, cond=cond)
            weighted = path.weight(k, m) * gained
            drawn = drawn + weighted
            draws[k] = weighted.sum(1)
    diffusion = (drawn / num_times + path.known(white)).sum(1)
    left = prior_kl(preserving, preserving.marginal(1.0).to(x.device), c_0)
    lost = _decoding_losses(own, predictor, path, spec, c_0=c_0, level=level, rows=rows, cond=cond)
    reconstruction = mean_of_draws(lost)
    total = -(diffusion + left + reconstruction)
    along, decoded = systematic_error(draws), standard_error(lost)
    return Vlb(
        total=total,
        diffusion=diffusion,
        prior_kl=left,
        reconstruction=reconstruction,
        bits_per_dim=-total / (own.dim * math.log(2)),
        nfe=num_times + (spec.num_probes if spec.decoder == "discretised_gaussian" else 0),
        num_times=num_times,
        num_probes=spec.num_probes,
        se=None if along is None or decoded is None else torch.hypot(along, decoded),
    )


def _clipped(predictor: Denoiser, own: SpectralProcess) -> Denoiser:
    """The predictor whose x_0 stays within the data range."""

    def predict(u_t: Tensor, t: Tensor, cond: Condition | None) -> Prediction:
        prediction = predictor(u_t, t, cond)
        x_0 = row_by_row(own.to_data, prediction.x_0.to(torch.float64)).clamp(-1.0, 1.0)
        return Prediction("x0", row_by_row(own.to_components, x_0), u_t[:, 0], prediction.marginal)

    return predict


def _path(own: SpectralProcess, preserving: SpectralProcess, spec: VlbSpec, rows: Sequence[int]) -> BoundPath:
    """Where the diffusion term is drawn.

    Raises:
        ConfigError: discretised_gaussian without levels, or a chain that does not meet those of the process.
    """
    is_decoded_by_network = spec.decoder == "discretised_gaussian"
    offsets = path_offsets(spec.seed, rows)
    starts_finite = bool(torch.isfinite(preserving.marginal(0.0).gamma).all())
    bin_ = 2 / (spec.quantisation or 256)
    num_levels = spec.num_levels or (own.num_levels if is_decoded_by_network else None)
    if num_levels is not None:
        first = 0 if starts_finite and not is_decoded_by_network else 1
        if spec.start_noise is not None:
            first = max(first, math.ceil(time_of_noise(preserving, spec.start_noise * bin_) * num_levels - 1e-9))
        return chain_path(
            preserving,
            num_levels,
            first=first,
            variance=spec.variance,
            offsets=offsets,
            num_draws=spec.num_times,
        )
    if is_decoded_by_network:
        raise ConfigError("decoder discretised_gaussian needs a chain, and the process has no levels; give num_levels")
    assert spec.num_times is not None
    noise = spec.start_noise or (None if starts_finite else CLEAN_START_NOISE)
    start = 0.0 if noise is None else time_of_noise(preserving, noise * bin_)
    return continuous_path(preserving, start, offsets, spec.num_times)


def _decoding_losses(
    own: SpectralProcess,
    predictor: Denoiser,
    path: BoundPath,
    spec: VlbSpec,
    *,
    c_0: Float[Tensor, "batch dim"],
    level: Float[Tensor, "batch dim"],
    rows: Sequence[int],
    cond: Condition | None,
) -> Float[Tensor, "probes batch"]:
    """-log p(x | c_{t_0}) for each draw of the noise.

    softmax: of the estimate c_{t_0}/alpha, whose noise in components is sigma/alpha. discretised_gaussian: around the
    predicted x_0, with the posterior's variance from one level higher, as Ho 2020 have it in code for both variances.
    """
    quantisation = spec.quantisation or 256
    m = own.marginal(path.start)
    ratio = m.sigma / m.alpha
    if spec.decoder == "softmax":
        deviation = pixel_deviation(own, ratio.square())
    else:
        nothing = torch.zeros(1, own.dim, dtype=torch.float64)
        deviation = pixel_deviation(own, own.posterior(nothing[:, None], nothing, path.start, path.second)[1][:, 0, 0])
    spread = deviation * (quantisation / 2)
    log_prob = softmax_log_prob if spec.decoder == "softmax" else discretised_gaussian_log_prob
    lost: list[Tensor] = []
    for first in range(0, spec.num_probes, _CHUNK):
        chunk = range(first, min(first + _CHUNK, spec.num_probes))
        noise = unit_noise(own, spec.seed, rows, chunk, "vlb_decoder", c_0.device)
        estimate = c_0 + ratio.to(c_0.device) * noise
        if spec.decoder == "discretised_gaussian":
            t = torch.full((len(c_0),), path.start, dtype=torch.float64)
            states = m.alpha.to(c_0.device) * estimate
            estimate = torch.stack([predictor(state[:, None], t, cond).x_0.to(torch.float64) for state in states])
        position = (example_by_example(own.to_data, estimate.transpose(0, 1)) + 1.0) * (quantisation / 2) - 0.5
        lost += [-log_prob(each.flatten(1), level, spread, quantisation).sum(1) for each in position]
    return torch.stack(lost)
