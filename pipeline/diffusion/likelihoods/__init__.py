"""Likelihoods and their table."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.config import Spec, parse, union
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.likelihoods.ode import LogLikelihood, OdeLikelihoodSpec, ode_log_likelihood
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process

LIKELIHOODS: dict[str, type[Spec]] = {"ode": OdeLikelihoodSpec}

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
) -> LogLikelihood:
    """Log density of continuous data x `(batch, *shape)`, nats per example, in named terms.

    Args:
        process: forward process with J = 1; its terminal distribution, if given, is the prior.
        predictor: `(u_t, t, cond) -> Prediction`, differentiable in the state.
        x: data in [-1, 1], already dequantised.
        spec: `{kind: ode, solver: rk4|heun, steps, trace, num_probes, quantisation, seed}`.
        probe: explicit trace probes in components, `(probes, batch, dim)` or `(batch, dim)`.
        indices: example indices, the keys of the seeded probes; 0 .. batch-1 by default.
        cond: condition of every evaluation.
    """
    checked = parse(LikelihoodSpec, spec, "likelihood")
    return ode_log_likelihood(process, predictor, x, checked, probe=probe, indices=indices, cond=cond)


__all__ = ["LIKELIHOODS", "LikelihoodSpec", "LogLikelihood", "OdeLikelihoodSpec", "log_likelihood"]
