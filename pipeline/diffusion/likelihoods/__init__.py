"""Likelihoods and their table."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.config import ConfigError, Spec, parse, union
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.elbo import Elbo, ElboSpec, elbo_log_likelihood
from pipeline.diffusion.likelihoods.ihdm_bound import IhdmBoundSpec, LevelBound, ihdm_bound
from pipeline.diffusion.likelihoods.ode import LogLikelihood, OdeLikelihoodSpec, ode_log_likelihood
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process

LIKELIHOODS: dict[str, type[Spec]] = {
    "ode": OdeLikelihoodSpec,
    "elbo": ElboSpec,
    "ihdm_bound": IhdmBoundSpec,
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
) -> LogLikelihood | Elbo | LevelBound:
    """Log density of continuous data x `(batch, *shape)`, or a lower bound of it, nats per example, in named terms.

    Args:
        process: forward process with J = 1; its terminal distribution, if given, is the prior.
        predictor: `(u_t, t, cond) -> Prediction`; for `ode` differentiable in the state, for `ihdm_bound` of x_prev.
        x: data in [-1, 1], already dequantised.
        spec: `{kind: ode, solver: rk4|heun, steps, trace, num_probes, quantisation, seed}`,
            `{kind: elbo, num_times, t_min, quantisation, seed}` or
            `{kind: ihdm_bound, delta, num_probes, quantisation, seed}`.
        probe: explicit trace probes (`ihdm_bound`: unit noise) in components, `(probes, batch, dim)` or `(batch, dim)`;
            not for `elbo`.
        indices: example indices, the keys of the seeded draws; 0 .. batch-1 by default.
        cond: condition of every evaluation.

    Raises:
        ConfigError: the specification is wrong, or the process has no such density or bound.
    """
    checked = parse(LikelihoodSpec, spec, "likelihood")
    if isinstance(checked, IhdmBoundSpec):
        return ihdm_bound(process, predictor, x, checked, probe=probe, indices=indices, cond=cond)
    if isinstance(checked, ElboSpec):
        if probe is not None:
            raise ConfigError("likelihood elbo draws its own noise; leave out probe")
        return elbo_log_likelihood(process, predictor, x, checked, indices=indices, cond=cond)
    return ode_log_likelihood(process, predictor, x, checked, probe=probe, indices=indices, cond=cond)


__all__ = [
    "LIKELIHOODS",
    "Elbo",
    "ElboSpec",
    "IhdmBoundSpec",
    "LevelBound",
    "LikelihoodSpec",
    "LogLikelihood",
    "OdeLikelihoodSpec",
    "log_likelihood",
]
