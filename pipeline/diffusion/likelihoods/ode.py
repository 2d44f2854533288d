"""Exact likelihood through the probability-flow ODE (Song et al. 2021, section 4.3) with fixed steps, per example."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from pipeline.config import ConfigError, Spec, neutral
from pipeline.diffusion.bases import build_basis
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.draws import standard_error
from pipeline.diffusion.likelihoods.paths import PathStep, Stage, likelihood_path
from pipeline.diffusion.likelihoods.trace import rademacher_probes, turned_probes, value_and_divergence
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, SpectralProcess
from pipeline.diffusion.schedules import Schedule
from pipeline.diffusion.statistics import Statistics

MAX_EXACT_DIM = 8
"""Up to this many dimensions `trace: auto` is exact: a single probe has a large variance there."""

Derivative = Callable[[Tensor, Stage], tuple[Tensor, Tensor]]
"""`(w, stage) -> (dw/dtau (batch, dim), divergence (estimates, batch))`, see `value_and_divergence`."""


class OdeLikelihoodSpec(Spec):
    """Probability-flow likelihood of continuous data; fixed steps, so a value never depends on its batch.

    Attributes:
        probe_basis: in which the probes are signs. `component`: that of the process. The closer the covariance of the
            data is to diagonal there, the less a probe varies: pca, and dct for photographs.
    """

    kind: Literal["ode"] = "ode"
    solver: Literal["rk4", "heun"] = "rk4"
    steps: PositiveInt = 24  # solver steps; rk4 evaluates four times per step, heun twice
    trace: Literal["auto", "exact", "rademacher"] = "auto"
    num_probes: PositiveInt = 1  # Rademacher probes per example, fixed along the path
    quantisation: PositiveInt | None = None  # levels of dequantised data on [-1, 1]; adds log2(levels / 2) bits/dim
    seed: int = 0  # of the probes
    probe_basis: Literal["component", "pixel", "dct", "pca"] = neutral("component")

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
        num_probes: behind the divergence; 0 for the exact trace.
        se: standard error of total over the probes in nats, `(batch,)`; zeros for the exact trace, None for one probe.
    """

    total: Float[Tensor, " batch"]
    prior: Float[Tensor, " batch"]
    divergence: Float[Tensor, " batch"]
    log_scale: Float[Tensor, " batch"]
    x_T: Tensor  # noqa: N815 - the field's name
    bits_per_dim: Float[Tensor, " batch"]
    nfe: int
    num_probes: int
    se: Float[Tensor, " batch"] | None


def ode_log_likelihood(
    process: Process,
    predictor: Denoiser,
    x: Float[Tensor, "batch *shape"],
    spec: OdeLikelihoodSpec,
    *,
    probe: Float[Tensor, "*probes batch dim"] | None = None,
    indices: Sequence[int] | None = None,
    cond: Condition | None = None,
    statistics: Statistics | None = None,
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
        statistics: of the data, for `probe_basis: pca` in a process of another basis.

    Raises:
        ConfigError: the process has no density, or the basis of the probes is not known.
    """
    own = diagonal_process(process)
    process = own.variance_preserving()
    predictor = predictor if process is own else _rescaled(predictor, own, process)
    path = likelihood_path(process, spec.steps)
    scale = process.scale.to(x.device)
    first, last = (_size(own, t).to(x.device) for t in (0.0, 1.0))
    start = row_by_row(process.to_components, x.to(torch.float64)) / (scale * first)
    probes = _probes(process, spec, range(len(x)) if indices is None else indices, probe, statistics)
    probes = None if probes is None else probes.to(device=x.device, dtype=torch.float64)

    def derivative(w: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        rate = stage.rate.to(x.device)

        def flow(white: Tensor) -> Tensor:
            return rate * predictor((white * scale)[:, None], stage.t, cond).v

        return value_and_divergence(flow, w, probes)

    num_probes = 0 if probes is None else len(probes)
    w, divergences = start, torch.zeros(1 + num_probes, len(x), dtype=torch.float64, device=x.device)
    solve = _rk4 if spec.solver == "rk4" else _heun
    for step in path:
        w, increment = solve(derivative, w, step)
        divergences = divergences + increment
    divergence = divergences[0]
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
        num_probes=num_probes,
        se=standard_error(divergences[1:]) if num_probes else torch.zeros_like(divergence),
    )


def _probes(
    process: SpectralProcess,
    spec: OdeLikelihoodSpec,
    rows: Sequence[int],
    given: Float[Tensor, "*probes batch dim"] | None,
    statistics: Statistics | None,
) -> Float[Tensor, "probes batch dim"] | None:
    """The given probes, or seeded signs in the basis that was asked for, in components; None for the exact trace."""
    if given is not None:
        return given[None] if given.ndim == 2 else given
    if spec.is_exact_trace(process.dim):
        return None
    signs = rademacher_probes(rows, process.dim, num_probes=spec.num_probes, seed=spec.seed)
    if spec.probe_basis in ("component", process.basis.name):
        return signs
    return turned_probes(signs, build_basis(spec.probe_basis, process.shape, statistics), process.basis)


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
