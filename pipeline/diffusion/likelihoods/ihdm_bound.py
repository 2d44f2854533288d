"""Variational bound of a chain of degradation levels, Rissanen et al. 2023 (IHDM), appendix A, in its corrected form.

The posterior of level k is N(D(x_0, k/K), sigma^2) for k = 1 .. K, the model of level k - 1 is N(prediction, delta^2):

    -log p(x_0) <= L_K + L_{K-1} + ... + L_1 + L_0,
    L_{k-1} = KL(N(D(x_0, (k-1)/K), sigma^2) || N(prediction from level k, delta^2)), k = 2 .. K,
    L_0 = -log N(x_0; prediction from level 1, delta^2),
    L_K = KL(N(D(x_0, 1), sigma^2) || prior).

The published code counts the transition 1 -> 0 twice and K -> K-1 never, so that its number is no bound; here every
transition counts once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.draws import standard_error
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import LevelPrior, Process
from pipeline.diffusion.processes.terminal.flat import isotropic_relative_entropy
from pipeline.diffusion.randomness import NoiseStream


class IhdmBoundSpec(Spec):
    """Lower bound of the log density by the levels of a noisy degradation; the prior is its terminal distribution."""

    kind: Literal["ihdm_bound"] = "ihdm_bound"
    delta: PositiveFloat | None = None  # noise of the model's steps, on the [-1, 1] scale; None: 1.25 sigma
    num_probes: PositiveInt = 1  # noise draws per level and example
    quantisation: PositiveInt | None = None  # levels of dequantised data on [-1, 1]; adds log2(levels / 2) bits/dim
    seed: int = 0  # of the noise draws


@dataclass(frozen=True)
class LevelBound:
    """Lower bound of log p(x) in nats per example and its terms; total = prior + divergence + reconstruction.

    Attributes:
        total: the bound, `(batch,)` float64.
        prior: -L_K. divergence: minus the sum of `steps`. reconstruction: -L_0.
        steps: L_{k-1} for k = 2 .. K, `(K - 1, batch)`.
        x_T: D(x, 1) in data space, `(batch, *shape)`.
        bits_per_dim: -total/(D ln 2), plus log2(quantisation/2) for quantised data.
        nfe: predictor evaluations per example.
        num_probes: noise draws per level.
        se: standard error of the estimate in nats, `(batch,)`; None for a single draw.
    """

    total: Float[Tensor, " batch"]
    prior: Float[Tensor, " batch"]
    divergence: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    steps: Float[Tensor, "steps batch"]
    x_T: Tensor  # noqa: N815 - the field's name
    bits_per_dim: Float[Tensor, " batch"]
    nfe: int
    num_probes: int
    se: Float[Tensor, " batch"] | None


def ihdm_bound(
    process: Process,
    predictor: Denoiser,
    x: Float[Tensor, "batch *shape"],
    spec: IhdmBoundSpec,
    *,
    probe: Float[Tensor, "*probes batch dim"] | None = None,
    indices: Sequence[int] | None = None,
    cond: Condition | None = None,
) -> LevelBound:
    """The bound at x, float64; its noise is a function of (seed, example index, level, draw) alone.

    Args:
        process: a degradation with K levels and constant noise on them; ends in the centre, in flat colours or in
            training images.
        predictor: predicts x_prev.
        x: continuous data in [-1, 1]; dequantisation is the caller's.
        spec: delta, number of draws.
        probe: explicit unit noise in components, the same for every level, instead of the seeded draws.
        indices: example indices, the keys of the noise; 0 .. batch-1 by default.
        cond: condition of every evaluation; its `time_to` is set here.

    Raises:
        ConfigError: the process has no levels, no noise, noise that is not constant, or another terminal distribution.
    """
    sigma = constant_sigma(process)
    terminal = process.terminal
    if not isinstance(terminal, LevelPrior):
        raise ConfigError("ihdm_bound needs a terminal distribution: zeros, flat_colour or training_images")
    assert process.num_levels is not None
    delta = 1.25 * sigma if spec.delta is None else spec.delta
    rows = range(len(x)) if indices is None else indices
    if probe is not None:
        probe = probe[None] if probe.ndim == 2 else probe
        probe = probe.to(device=x.device, dtype=torch.float64)
    num_probes = spec.num_probes if probe is None else len(probe)
    c_0 = process.to_components(x.to(torch.float64))
    squares = torch.zeros(process.num_levels, len(x), dtype=torch.float64, device=x.device)
    draws = torch.zeros(num_probes, len(x), dtype=torch.float64, device=x.device)
    for level in range(1, process.num_levels + 1):
        t, s = (torch.tensor(k / process.num_levels, dtype=torch.float64) for k in (level, level - 1))
        time_to = torch.full((len(x),), float(s), dtype=torch.float64, device=x.device)
        conditioned = replace(cond or Condition(), time_to=time_to)
        clean, degraded = process.degrade(c_0, s), process.degrade(c_0, t)
        for draw in range(num_probes):
            eps = probe[draw] if probe is not None else _noise(process, spec.seed, rows, level, draw).to(x.device)
            predicted = predictor((degraded + sigma * eps)[:, None], t, conditioned).x_prev
            square = (clean - predicted).square().sum(1)
            squares[level - 1] += square / num_probes
            draws[draw] += square
    steps = isotropic_relative_entropy(squares[1:], process.dim, sigma, delta)
    first = 0.5 * squares[0] / delta**2 + process.dim * math.log(delta * math.sqrt(2 * math.pi))
    c_T = process.degrade(c_0, 1.0)
    last = terminal.relative_entropy(c_T, sigma, delta)
    total = -(last + steps.sum(0) + first)
    offset = math.log2(spec.quantisation / 2) if spec.quantisation else 0.0
    return LevelBound(
        total=total,
        prior=-last,
        divergence=-steps.sum(0),
        reconstruction=-first,
        steps=steps,
        x_T=process.to_data(c_T),
        bits_per_dim=-total / (process.dim * math.log(2)) + offset,
        nfe=process.num_levels * num_probes,
        num_probes=num_probes,
        se=standard_error(0.5 * draws / delta**2),  # each square enters its level as square / (2 delta^2)
    )


def constant_sigma(process: Process) -> float:
    """The noise sigma that all levels 1/K .. 1 of a degradation share.

    Raises:
        ConfigError: there are no levels, or their noise is zero or differs: then there is no bound of this form.
    """
    if process.num_levels is None or not process.is_degradation:
        raise ConfigError("ihdm_bound needs the levels of a degradation")
    levels = torch.arange(1, process.num_levels + 1, dtype=torch.float64) / process.num_levels
    sigmas = process.sigma(levels)
    sigma = float(sigmas.flatten()[0])
    if sigma == 0.0:
        raise ConfigError(
            "ihdm_bound needs noise on every level: without it the posterior is a point and has no density"
        )
    if float((sigmas - sigma).abs().max()) > 1e-9 * sigma:
        raise ConfigError("ihdm_bound needs the same noise on every level and component")
    return sigma


def _noise(process: Process, seed: int, rows: Sequence[int], level: int, draw: int) -> Float[Tensor, "batch dim"]:
    """Unit noise of a level in components, drawn in data space."""
    shape = tuple(process.shape)
    drawn = NoiseStream(seed).normal(rows, level, f"ihdm_bound/{draw}", shape, torch.float64)
    return process.basis.to_components(drawn)
