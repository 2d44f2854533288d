"""Reverse kernels: identities between them, order of convergence, law of their samples, behaviour at the ends."""

import math
from itertools import pairwise

import pytest
import torch

from pipeline.diffusion import build_kernel, build_process, oracles, sample
from pipeline.diffusion.sampling import time_grid
from tests.diffusion_cases import (
    DIM,
    IMAGE_SHAPE,
    SCHEDULES,
    Counted,
    gaussian_oracle,
    image_process,
    keyed_noise,
    mixture_oracle,
    normal,
    slow,
    vector_process,
)

ALL_KERNELS = [
    {"kind": "ancestral"},
    {"kind": "ancestral", "variance": "large"},
    {"kind": "ddim"},
    {"kind": "ddim", "eta": 0.6},
    {"kind": "euler"},
    {"kind": "heun"},
    {"kind": "euler_maruyama"},
]
SMOOTH = {"kind": "gud", "softness_a": 1.2, "ordering": "variance", "log_snr_data": 5.0, "log_snr_prior": -5.0}


def start(process, *, batch=3):
    """A prior sample in data space."""
    return process.to_data(normal(1, batch, process.dim) * process.scale)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_eta_one_equals_ancestral(schedule, prior):
    process = image_process(schedule, prior=prior)
    oracle = gaussian_oracle(process)
    u_t, noise = normal(2, 4, 1, DIM) * process.scale, {"eps": normal(3, 4, 1, DIM)}
    for t, s in [(0.9, 0.7), (0.5, 0.25), (0.3, 0.29), (0.1, 0.0)]:
        times = torch.tensor([t, s], dtype=torch.float64)
        stepped = [
            build_kernel(spec).step(u_t, times[0], times[1], oracle, None, noise, times[1], process)[0]
            for spec in ({"kind": "ddim", "eta": 1.0}, {"kind": "ancestral"})
        ]
        mean, covariance = process.posterior(u_t, oracle(u_t, t).x_0, s, t)
        torch.testing.assert_close(stepped[1], mean + covariance[:, 0].sqrt() * noise["eps"], rtol=0, atol=1e-12)
        torch.testing.assert_close(*stepped, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prior", ["standard", slow("data")])
@pytest.mark.parametrize(("kind", "order", "slack"), [("euler", 1, 0.15), ("ddim", 1, 0.15), ("heun", 2, 0.25)])
def test_order_of_convergence_on_gaussian_data(kind, order, slack, prior):
    variances = torch.tensor([1.5, 0.8, 0.3, 0.1], dtype=torch.float64)
    process = vector_process(SMOOTH, variances, prior=prior, mean=torch.tensor([0.3, -0.2, 0.1, 0.4]).double())
    oracle, x_T = gaussian_oracle(process), normal(4, 5, 4)
    exact = oracle.flow(x_T, 1.0, 0.0)
    errors = [
        float((sample(process, build_kernel({"kind": kind}), oracle, x_T, time_grid(n)) - exact).abs().max())
        for n in (40, 80, 160)
    ]
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(rate - order) <= slack for rate in rates), (errors, rates)


@pytest.mark.parametrize(("kind", "order", "slack"), [slow("euler", 1, 0.15), slow("ddim", 1, 0.15), ("heun", 2, 0.25)])
def test_order_of_convergence_on_mixture_data(kind, order, slack):
    process = vector_process(SMOOTH, torch.tensor([1.5, 0.8, 0.3], dtype=torch.float64))
    oracle, x_T = mixture_oracle(process), normal(4, 5, 3)
    ends = [sample(process, build_kernel({"kind": kind}), oracle, x_T, time_grid(n)) for n in (40, 80, 160, 320)]
    gaps = [float((a - b).abs().max()) for a, b in pairwise(ends)]
    rates = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert all(abs(rate - order) <= slack for rate in rates), (gaps, rates)


@pytest.mark.parametrize("prior", ["standard", slow("data")])
@pytest.mark.parametrize("kind", ["ancestral", "euler_maruyama"])
def test_stochastic_kernel_gives_the_data_covariance(kind, prior):
    num_images, steps = 8000, 150
    variances = torch.tensor([1.5, 0.5, 0.1], dtype=torch.float64)
    process = vector_process(SMOOTH, variances, prior=prior)
    x_T = process.to_data(normal(7, num_images, 3) * process.scale)
    x = sample(process, build_kernel({"kind": kind}), gaussian_oracle(process), x_T, time_grid(steps), keyed_noise)
    normalised = torch.cov(x.T) / torch.outer(variances, variances).sqrt()
    standard_error = torch.sqrt((1 + torch.eye(3)) / num_images)
    assert bool(((normalised - torch.eye(3)).abs() < 4 * standard_error + 0.01 * torch.eye(3)).all()), normalised


@pytest.mark.parametrize("spec", ALL_KERNELS, ids=str)
def test_components_at_rest_are_untouched(spec):
    process = image_process("columns")
    oracle, kernel = mixture_oracle(process), build_kernel(spec)
    t, s = torch.tensor([0.8, 0.75], dtype=torch.float64)
    u_t = normal(2, 4, 1, DIM)
    stepped, _ = kernel.step(u_t, t, s, oracle, None, {"eps": normal(3, 4, 1, DIM)}, s, process)
    at_rest = (process.marginal(t).gamma == process.marginal(s).gamma)[0]
    assert 0 < int(at_rest.sum()) < DIM
    assert torch.equal(stepped[..., at_rest], u_t[..., at_rest])
    assert bool((stepped[..., ~at_rest] != u_t[..., ~at_rest]).all())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spec", ALL_KERNELS, ids=str)
def test_paths_from_one_to_zero_are_finite(spec, schedule):
    process = image_process(schedule)
    x = sample(process, build_kernel(spec), gaussian_oracle(process), start(process), time_grid(20), keyed_noise)
    assert bool(torch.isfinite(x).all())


@pytest.mark.parametrize("spec", [{"kind": "ddim"}, {"kind": "ddim", "eta": 1.0}, {"kind": "ancestral"}], ids=str)
def test_a_step_to_the_clean_end_returns_the_predicted_data(spec):
    process = image_process("vp")
    oracle, kernel = mixture_oracle(process), build_kernel(spec)
    t, zero = torch.tensor([0.2, 0.0], dtype=torch.float64)
    assert bool(torch.isneginf(process.marginal(zero).gamma).all())
    u_t = normal(2, 4, 1, DIM)
    stepped, _ = kernel.step(u_t, t, zero, oracle, None, {"eps": normal(3, 4, 1, DIM)}, zero, process)
    torch.testing.assert_close(stepped[:, 0], oracle(u_t, t).x_0, rtol=0, atol=1e-12)


def test_large_variance_is_the_forward_transition_s_and_absent_in_the_last_step():
    process = image_process("vp")
    oracle = gaussian_oracle(process)
    t, s, end = torch.tensor([0.5, 0.4, 0.0], dtype=torch.float64)
    u_t, noise, silence = normal(2, 4, 1, DIM), {"eps": normal(3, 4, 1, DIM)}, {"eps": torch.zeros(4, 1, DIM).double()}
    large = build_kernel({"kind": "ancestral", "variance": "large"})
    moved = large.step(u_t, t, s, oracle, None, noise, end, process)[0]
    mean = large.step(u_t, t, s, oracle, None, silence, end, process)[0]
    alpha_t, alpha_s = process.marginal(t).alpha, process.marginal(s).alpha
    torch.testing.assert_close(
        (moved - mean) / noise["eps"], torch.sqrt(1 - (alpha_t / alpha_s) ** 2).expand(4, 1, DIM)
    )
    last = [large.step(u_t, t, s, oracle, None, z, s, process)[0] for z in (noise, silence)]
    assert torch.equal(*last)


@pytest.mark.parametrize("spec", ALL_KERNELS, ids=str)
def test_counted_evaluations_equal_the_declared_number(spec):
    process, kernel = image_process("linear_beta"), build_kernel(spec)
    counted = Counted(gaussian_oracle(process))
    sample(process, kernel, counted, start(process), time_grid(7), keyed_noise)
    assert counted.calls == kernel.nfe(7)


def test_exact_gaussian_marginals_are_kept_by_every_eta_when_x_0_is_exact():
    """With the true x_0 in place of its prediction a DDIM step maps q(x_t | x_0) to q(x_s | x_0) for every eta."""
    process = image_process("gud")
    t, s = torch.tensor([0.6, 0.4], dtype=torch.float64)
    at_t, at_s = process.marginal(t), process.marginal(s)
    for eta in (0.0, 0.3, 1.0):
        fresh = eta**2 * at_s.sigma**2 * -torch.expm1(at_s.gamma - at_t.gamma)
        kept = at_s.sigma**2 * ((1 - eta**2) + eta**2 * torch.exp(at_s.gamma - at_t.gamma))
        torch.testing.assert_close(fresh + kept, at_s.sigma**2)


def test_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean heun"):
        build_kernel({"kind": "huen"})


def test_processes_without_statistics_are_sampled_too():
    spec = {"kind": "spectral", "basis": "pixel", "prior": "standard", "schedule": {"kind": "vp"}}
    process = build_process(spec, shape=IMAGE_SHAPE)
    oracle = oracles.gaussian(process, torch.zeros(DIM).double(), torch.ones(DIM).double())
    x_T = start(process)
    x = sample(process, build_kernel({"kind": "heun"}), oracle, x_T, time_grid(5))
    torch.testing.assert_close(x, x_T)
