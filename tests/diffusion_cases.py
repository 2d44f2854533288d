"""Small processes, data distributions and predictors with known answers, shared by the diffusion tests."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.diffusion import Statistics, build_process, oracles

IMAGE_SHAPE = (1, 4, 4)
DIM = math.prod(IMAGE_SHAPE)

SCALAR_SCHEDULES: dict[str, dict[str, Any]] = {
    "linear_beta": {"kind": "linear_beta", "beta_min": 1e-4, "beta_max": 0.02, "num_levels": 1000},
    "betas": {"kind": "betas", "values": [0.02, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9]},
    "cosine": {"kind": "cosine"},
    "sigmoid": {"kind": "sigmoid"},
    "vp": {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0},
    "log_linear": {"kind": "log_linear", "gamma_min": -10.0, "gamma_max": 8.0},
}
GUD_SCHEDULES: dict[str, dict[str, Any]] = {
    "gud": {"kind": "gud", "softness_a": 1.5, "ordering": "variance"},
    "gud_clipped": {"kind": "gud", "softness_a": 2.0, "ordering": "variance", "clip": True},
}
PLACED_SCHEDULES: dict[str, dict[str, Any]] = {
    "columns": {"kind": "columns", "overlap_b": 0.5, "gamma_min": -8.0, "gamma_max": 6.0},
    "haar_columns": {
        "kind": "haar_columns",
        "level_offset": 0.4,
        "overlap_b": 0.3,
        "gamma_min": -8.0,
        "gamma_max": 6.0,
    },
}
SCHEDULES = SCALAR_SCHEDULES | GUD_SCHEDULES | PLACED_SCHEDULES
BASES = ("pixel", "dct", "fourier", "haar", "pca")


def slow(*values: Any) -> Any:
    """A parameter set of a test that only the slow suite runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def basis_for(schedule: str) -> str:
    """A basis in which the schedule called `schedule` is defined."""
    return {"columns": "pixel", "haar_columns": "haar"}.get(schedule, "dct")


def image_statistics() -> Statistics:
    """Data with a random orthonormal eigenbasis, variances from 1.5 down to 0.02 and a small mean."""
    generator = torch.Generator().manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))[0]
    variances = torch.logspace(math.log10(1.5), math.log10(0.02), DIM, dtype=torch.float64)
    mean = 0.2 * torch.randn(DIM, generator=generator, dtype=torch.float64)
    return Statistics(mean=mean, variances=variances, components=rotation.T.contiguous())


def image_process(schedule: str, *, basis: str | None = None, prior: str = "standard", terminal: Any = None) -> Any:
    """A spectral process on 4x4 images with the named schedule."""
    spec = {
        "kind": "spectral",
        "basis": basis or basis_for(schedule),
        "centre": "grey",
        "prior": prior,
        "schedule": SCHEDULES[schedule],
    }
    return build_process(spec, shape=IMAGE_SHAPE, statistics=image_statistics(), terminal=terminal)


def vector_process(schedule: dict[str, Any], variances: Tensor, *, prior: str = "standard", **more: Any) -> Any:
    """A spectral process on vectors in their own coordinates, data variances given, mean zero unless `mean` is."""
    mean = more.pop("mean", torch.zeros_like(variances))
    spec = {"kind": "spectral", "basis": "pixel", "centre": "grey", "prior": prior, "schedule": schedule}
    return build_process(spec, shape=(len(variances),), statistics=Statistics(mean=mean, variances=variances), **more)


def gaussian_oracle(process: Any) -> Any:
    """The exact predictor of Gaussian data with the process's own moments (diagonal in its basis)."""
    return oracles.gaussian(process, process.mean_components, process.variances)


def mixture_oracle(process: Any) -> Any:
    """The exact predictor of three diagonal Gaussians whose overall size follows the process's variances."""
    generator = torch.Generator().manual_seed(5)
    spread = process.variances.sqrt()
    means = process.mean_components + spread * torch.randn(3, process.dim, generator=generator, dtype=torch.float64)
    shares = 0.1 + 0.5 * torch.rand(3, process.dim, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return oracles.mixture(process, weights, means, shares * process.variances)


class MarginalAtOne:
    """The exact terminal density of an oracle's data, as a prior."""

    def __init__(self, oracle: Any) -> None:
        self.oracle = oracle

    def log_prob(self, c: Tensor) -> Tensor:
        return self.oracle.log_prob(c, 1.0)


class Counted:
    """A predictor that counts how often it is asked."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.calls = predictor, 0

    def __call__(self, u_t: Tensor, t: Any, cond: Any = None) -> Any:
        self.calls += 1
        return self.predictor(u_t, t, cond)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Unit normal numbers from a private generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def keyed_noise(step: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Unit normal noise that depends on the step only."""
    return normal(1000 + step, *shape)


def affine(draw: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Of `draw(noise, x)`, affine in x `(batch, *shape)` and in noise: the constant, the matrix of x, the covariance.

    Exact: every number that is drawn, and every entry of x, is 1 in one row of a batch and 0 in all others.
    """
    asked: dict[tuple[int, str], int] = {}
    dim = math.prod(shape)

    def recorded(step: int, name: str, asked_shape: tuple[int, ...]) -> Tensor:
        asked[(step, name)] = math.prod(asked_shape[1:])
        return torch.zeros(asked_shape, dtype=torch.float64)

    draw(recorded, torch.zeros(1, *shape, dtype=torch.float64))
    first = {}
    total = 1 + dim
    for key, size in asked.items():
        first[key], total = total, total + size

    def unit(step: int, name: str, asked_shape: tuple[int, ...]) -> Tensor:
        noise = torch.zeros(total, asked[(step, name)], dtype=torch.float64)
        rows = first[(step, name)] + torch.arange(asked[(step, name)])
        noise[rows] = torch.eye(len(rows), dtype=torch.float64)
        return noise.reshape(asked_shape)

    x = torch.zeros(total, dim, dtype=torch.float64)
    x[1 : 1 + dim] = torch.eye(dim)
    out = draw(unit, x.reshape(total, *shape)).flatten(1)
    responses = (out[1:] - out[0]).T
    return out[0], responses[:, :dim], responses[:, dim:] @ responses[:, dim:].T
