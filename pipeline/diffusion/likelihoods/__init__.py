"""Likelihoods and their table."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.config import ConfigError, Spec, parse, union
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.elbo import Elbo, ElboSpec, elbo_log_likelihood
from pipeline.diffusion.likelihoods.ihdm_bound import IhdmBoundSpec, LevelBound, ihdm_bound
from pipeline.diffusion.likelihoods.ode import LogLikelihood, OdeLikelihoodSpec, ode_log_likelihood
from pipeline.diffusion.likelihoods.vlb import Vlb, VlbSpec, vlb_log_likelihood
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process
from pipeline.diffusion.statistics import Statistics

LIKELIHOODS: dict[str, type[Spec]] = {
    "ode": OdeLikelihoodSpec,
    "elbo": ElboSpec,
    "ihdm_bound": IhdmBoundSpec,
    "vlb": VlbSpec,
}

LikelihoodSpec = union(LIKELIHOODS)


def log_likelihood(
    process: Process,
    predictor: Denoiser,
    x: Tensor,
    spec: Mapping[str, Any] | Spec,
    *,
    probe: Tensor | None = None,
    indices: Sequence[int] | None = None,
    cond: Condition | None = None,
    statistics: Statistics | None = None,
) -> LogLikelihood | Elbo | LevelBound | Vlb:
    """Log density of continuous data x `(batch, *shape)`, or a lower bound of it, nats per example, in named terms.

    `vlb` alone bounds the log-probability of discrete data.

    Args:
        process: forward process with J = 1; its terminal distribution, if given, is the prior.
        predictor: `(u_t, t, cond) -> Prediction`; for `ode` differentiable in the state, for `ihdm_bound` of x_prev.
        x: data in [-1, 1], already dequantised; for `vlb` bin centres 2 (k + 1/2)/q - 1 of the levels k.
        spec: `{kind: ode, solver: rk4|heun, steps, trace, num_probes, quantisation, seed}`,
            `{kind: elbo, num_times, t_min, quantisation, seed}`,
            `{kind: ihdm_bound, delta, num_probes, quantisation, seed}` or
            `{kind: vlb, num_levels, decoder, variance, num_times, num_probes, start_noise, clip, quantisation, seed}`.
        probe: explicit trace probes (`ihdm_bound`: unit noise) in components, `(probes, batch, dim)` or `(batch, dim)`;
            not for `elbo` and `vlb`.
        indices: example indices, the keys of the seeded draws; 0 .. batch-1 by default.
        cond: condition of every evaluation.
        statistics: of the data; only for `ode` with `probe_basis: pca` in a process of another basis.

    Raises:
        ConfigError: the specification is wrong, or the process has no such density or bound.
        ValueError: `vlb` was given data that are no bin centres.
    """
    checked = parse(LikelihoodSpec, spec, "likelihood")
    if isinstance(checked, IhdmBoundSpec):
        return ihdm_bound(process, predictor, x, checked, probe=probe, indices=indices, cond=cond)
    if isinstance(checked, ElboSpec | VlbSpec):
        if probe is not None:
            raise ConfigError(f"likelihood {checked.kind} draws its own noise; leave out probe")
        if isinstance(checked, VlbSpec):
            return vlb_log_likelihood(process, predictor, x, checked, indices=indices, cond=cond)
        return elbo_log_likelihood(process, predictor, x, checked, indices=indices, cond=cond)
    return ode_log_likelihood(
        process, predictor, x, checked, probe=probe, indices=indices, cond=cond, statistics=statistics
    )


__all__ = [
    "LIKELIHOODS",
    "Elbo",
    "ElboSpec",
    "IhdmBoundSpec",
    "LevelBound",
    "LikelihoodSpec",
    "LogLikelihood",
    "OdeLikelihoodSpec",
    "Vlb",
    "VlbSpec",
    "log_likelihood",
]
