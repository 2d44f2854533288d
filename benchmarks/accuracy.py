"""Orders of convergence of the ODE kernels and errors of the ODE likelihood, on Gaussian data; one JSON line each.

    python benchmarks/accuracy.py

Order: exact predictor of Gaussian data with 8 components, schedule gud at a = 0.5; the kernel at 200, 400 and 800
uniform steps against the exact flow; log2 of the ratio of neighbouring errors.
Likelihood: exact predictor and exact terminal density, 128 RK4 steps, against the closed log p_0; the worst example of
the five bases, in nats per dimension. One Rademacher probe in components is the exact trace here.
Published points: mixtures and a Gaussian of up to 16 dimensions under VP against a flow at 1e-11 (tests/golden), mean
error in bits/dim with 64 evaluations and largest error in nats with 256.
"""

import json
import math
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.diffusion import build_kernel, log_likelihood, oracles, sample
from tests.diffusion_cases import (
    BASES,
    SCHEDULES,
    MarginalAtOne,
    gaussian_oracle,
    image_process,
    normal,
    vector_process,
)
from tests.golden import test_likelihood_peer

VARIANCES = torch.tensor([8.0, 3.0, 1.2, 0.5, 0.2, 0.08, 0.03, 0.01], dtype=torch.float64)
STEPS = (200, 400, 800)
KERNELS = {"euler": {"kind": "euler"}, "ddim": {"kind": "ddim", "eta": 0.0}, "heun": {"kind": "heun"}}
LIKELIHOOD = {"kind": "ode", "solver": "rk4", "steps": 128, "trace": "rademacher"}


def main() -> None:
    """Print one line per kernel and one per schedule."""
    for name, spec in KERNELS.items():
        errors = [flow_error(spec, steps) for steps in STEPS]
        orders = [round(math.log2(coarse / fine), 3) for coarse, fine in pairwise(errors)]
        print(json.dumps({"kernel": name, "steps": STEPS, "error": errors, "order": orders}))
    for schedule in SCHEDULES:
        errors = {basis: likelihood_error(basis, schedule) for basis in bases_of(schedule)}
        worst = max(errors, key=lambda basis: errors[basis])
        print(json.dumps({"schedule": schedule, "bases": len(errors), "nats_per_dim": errors[worst], "basis": worst}))
    for case in test_likelihood_peer.CASES:
        nats = {16: published_error(case, 16), 64: published_error(case, 64)}
        process, _ = test_likelihood_peer.oracle_of(case)
        bits = float(nats[16].mean()) / (process.dim * math.log(2))
        print(json.dumps({"case": case, "mean_bits_at_64": bits, "max_nats_at_256": float(nats[64].max())}))


def bases_of(schedule: str) -> list[str]:
    """The bases that have the schedule's labels."""
    return {"columns": ["pixel"], "haar_columns": ["haar"]}.get(schedule, list(BASES))


def flow_error(spec: dict[str, object], steps: int) -> float:
    """Largest distance of the kernel's end from the exact flow's, over 32 starts."""
    process = vector_process({"kind": "gud", "softness_a": 0.5}, VARIANCES)
    predictor = oracles.gaussian(process, process.mean_components, VARIANCES)
    x_1 = normal(0, 32, 8)
    end = sample(process, build_kernel(spec), predictor, x_1, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    assert isinstance(end, Tensor)
    first, last = process.marginal(0.0), process.marginal(1.0)
    gain = torch.sqrt((first.alpha**2 * VARIANCES + first.sigma**2) / (last.alpha**2 * VARIANCES + last.sigma**2))
    mean = process.mean_components
    exact = first.alpha * mean + gain * (process.to_components(x_1) - last.alpha * mean)
    return float((process.to_components(end) - exact).abs().max())


def likelihood_error(basis: str, schedule: str) -> float:
    """Largest error of log p_0 per dimension over 16 draws of the data."""
    oracle = gaussian_oracle(image_process(schedule, basis=basis))
    process = image_process(schedule, basis=basis, terminal=MarginalAtOne(oracle))
    c_0 = process.mean_components + process.variances.sqrt() * normal(9, 16, process.dim)
    x = process.to_data(c_0)
    exact = oracle.log_prob(process.to_components(x), 0.0)
    return float((log_likelihood(process, oracle, x, LIKELIHOOD).total - exact).abs().max()) / process.dim


def published_error(case: str, steps: int) -> Tensor:
    """Errors of log p_0, nats, of the points of a case."""
    process, oracle = test_likelihood_peer.oracle_of(case)
    spec = {"kind": "ode", "solver": "rk4", "steps": steps, "trace": "exact"}
    x = test_likelihood_peer.tensor(f"{case}__x")
    return (log_likelihood(process, oracle, x, spec).total - test_likelihood_peer.expected(case)).abs()


if __name__ == "__main__":
    main()
