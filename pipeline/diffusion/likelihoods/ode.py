"""Exact likelihood through the probability-flow ODE (Song et al. 2021, section 4.3) with fixed steps, per example."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.paths import PathStep, Stage, likelihood_path
from pipeline.diffusion.likelihoods.trace import rademacher_probes, value_and_divergence
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, SpectralProcess
from pipeline.diffusion.schedules import Schedule

MAX_EXACT_DIM = 8
"""Up to this many dimensions `trace: auto` is exact: a single probe has a large variance there."""

Derivative = Callable[[Tensor, Stage], tuple[Tensor, Tensor]]
"""`(w, stage) -> (dw/dtau (batch, dim), divergence (batch,))`."""


class OdeLikelihoodSpec(Spec):
    """Probability-flow likelihood of continuous data; fixed steps, so a value never depends on its batch."""

    kind: Literal["ode"] = "ode"
    solver: Literal["rk4", "heun"] = "rk4"
    steps: PositiveInt = 24  # solver steps; rk4 evaluates four times per step, heun twice
    trace: Literal["auto", "exact", "rademacher"] = "auto"
    num_probes: PositiveInt = 1  # Rademacher probes per example, fixed along the path
    quantisation: PositiveInt | None = None  # levels of dequantised data on [-1, 1]; adds log2(levels / 2) bits/dim
    seed: int = 0  # of the probes

    def is_exact_trace(self, dim: int) -> bool:
        """Whether the divergence is the exact trace for data of `dim` dimensions."""
        return self.trace == "exact" or (self.trace == "auto" and dim <= MAX_EXACT_DIM)


@dataclass(frozen=True)
class LogLikelihood:
    """log p(x) in nats per example and its terms; total = prior + divergence + log_scale.

    Attributes:
        total: log density of the data, `(batch,)` float64.
        prior: log density of the end of the flow under the prior, in white coordinates.
        divergence: integral of the divergence of the flow.
        log_scale: -sum log s, from white coordinates to data.
        x_T: end of the flow in data space, `(batch, *shape)`.
        bits_per_dim: -total/(D ln 2), plus log2(quantisation/2) for quantised data.
        nfe: predictor evaluations per example.
    """

    total: Float[Tensor, " batch"]
    prior: Float[Tensor, " batch"]
    divergence: Float[Tensor, " batch"]
    log_scale: Float[Tensor, " batch"]
    x_T: Tensor  # noqa: N815 - the field's name
    bits_per_dim: Float[Tensor, " batch"]
    nfe: int


def ode_log_likelihood(
    process: Process,
    predictor: Denoiser,
    x: Float[Tensor, "batch *shape"],
    spec: OdeLikelihoodSpec,
    *,
    probe: Float[Tensor, "probes batch dim"] | None = None,
    indices: Sequence[int] | None = None,
    cond: Condition | None = None,
) -> LogLikelihood:
    """log p(x) by integrating the flow w' = rate * v and its divergence in white coordinates w = c / s, float64.

    Args:
        process: forward process with J = 1.
        predictor: differentiable in the state.
        x: continuous data; dequantisation is the caller's.
        spec: solver, steps, trace.
        probe: explicit probes in components instead of the seeded ones.
        indices: example indices, the keys of the probes; 0 .. batch-1 by default.
        cond: condition of every evaluation.
    """
    own = diagonal_process(process)
    process = own.variance_preserving()
    predictor = predictor if process is own else _rescaled(predictor, own, process)
    path = likelihood_path(process, spec.steps)
    scale = process.scale.to(x.device)
    first, last = (_size(own, t).to(x.device) for t in (0.0, 1.0))
    start = row_by_row(process.to_components, x.to(torch.float64)) / (scale * first)
    if probe is not None:
        probes = probe.to(device=x.device, dtype=torch.float64)
        probes = probes[None] if probes.ndim == 2 else probes
    elif spec.is_exact_trace(process.dim):
        probes = None
    else:
        rows = range(len(x)) if indices is None else indices
        probes = rademacher_probes(rows, process.dim, num_probes=spec.num_probes, seed=spec.seed).to(x.device)

    def derivative(w: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        rate = stage.rate.to(x.device)

        def flow(white: Tensor) -> Tensor:
            return rate * predictor((white * scale)[:, None], stage.t, cond).v

        return value_and_divergence(flow, w, probes)

    w, divergence = start, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    solve = _rk4 if spec.solver == "rk4" else _heun
    for step in path:
        w, increment = solve(derivative, w, step)
        divergence = divergence + increment
    log_scale = -torch.log(scale * first).sum().expand(len(x))
    components = w * scale
    prior = process.prior_log_prob(components[:, None]) + torch.log(scale).sum()
    total = prior + divergence + log_scale
    bits_per_dim = -total / (process.dim * math.log(2)) + (
        math.log2(spec.quantisation / 2) if spec.quantisation else 0.0
    )
    return LogLikelihood(
        total=total,
        prior=prior,
        divergence=divergence,
        log_scale=log_scale,
        x_T=row_by_row(process.to_data, components * last),
        bits_per_dim=bits_per_dim,
        nfe=len(path) * (4 if spec.solver == "rk4" else 2),
    )


def _rk4(derivative: Derivative, w: Tensor, step: PathStep) -> tuple[Tensor, Tensor]:
    """Classical Runge-Kutta step of the flow and the same quadrature of its divergence."""
    h = step.length
    k1, d1 = derivative(w, step.start)
    k2, d2 = derivative(w + 0.5 * h * k1, step.middle)
    k3, d3 = derivative(w + 0.5 * h * k2, step.middle)
    k4, d4 = derivative(w + h * k3, step.end)
    return w + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


def _heun(derivative: Derivative, w: Tensor, step: PathStep) -> tuple[Tensor, Tensor]:
    h = step.length
    k1, d1 = derivative(w, step.start)
    k2, d2 = derivative(w + h * k1, step.end)
    return w + 0.5 * h * (k1 + k2), 0.5 * h * (d1 + d2)


def diagonal_process(process: Process) -> SpectralProcess:
    """The process, if it has a density.

    Raises:
        ConfigError: it is not diagonal in any basis.
    """
    if not isinstance(process, SpectralProcess):
        raise ConfigError("a degradation that is not diagonal has no density and no ODE")
    return process


def _size(process: SpectralProcess, t: float) -> Tensor:
    """sqrt(alpha^2 + sigma^2), `(dim,)`: what the variance-preserving form divides by; 1 for a noise schedule."""
    one = torch.ones(process.dim, dtype=torch.float64)
    if isinstance(process.schedule, Schedule):
        return one
    m = process.marginal(t)
    return one * torch.sqrt(m.alpha.square() + m.sigma.square())[0]


def _rescaled(predictor: Denoiser, own: SpectralProcess, preserving: SpectralProcess) -> Denoiser:
    """The predictor of `own` for the states of its variance-preserving form."""

    def predict(u_t: Tensor, t: Tensor, cond: Condition | None) -> Prediction:
        m = own.marginal(t).to(u_t.device)
        size = torch.sqrt(m.alpha.square() + m.sigma.square())
        prediction = predictor(u_t * size[:, None].to(u_t), t, cond)
        v = (m.alpha * prediction.eps - m.sigma * prediction.x_0) / size
        return Prediction("v", v.to(u_t.dtype), u_t[:, 0], preserving.marginal(t).to(u_t.device))

    return predict


def row_by_row(transform: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`transform` applied to one example at a time: matrix products of a batch round differently with its size."""
    return torch.cat([transform(rows[i : i + 1]) for i in range(len(rows))])
