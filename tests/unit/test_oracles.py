"""Exact predictors against autograd, quadrature and each other."""

import math

import pytest
import torch

from pipeline.diffusion import Statistics, build_process, oracles
from pipeline.diffusion.processes import Process

GENERATOR = torch.Generator().manual_seed(0)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
VARIANCES = torch.tensor([2.0, 0.3, 0.05], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[1.0, 0.0, -1.0], [-0.5, 0.8, 0.3], [0.1, -1.2, 0.9]], dtype=torch.float64)
SPREADS = torch.tensor([[0.1, 0.4, 0.2], [0.5, 0.05, 0.3], [0.2, 0.2, 0.02]], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0], dtype=torch.float64)


def process_of(prior: str = "standard", schedule: dict | None = None) -> Process:
    spec = {"kind": "spectral", "prior": prior, "schedule": schedule or {"kind": "gud", "softness_a": 1.4}}
    return build_process(spec, (3,), Statistics(torch.zeros(3), VARIANCES))


def oracle_of(name: str, process: Process) -> oracles.GaussianOracle | oracles.MixtureOracle:
    if name == "gaussian":
        return oracles.gaussian(process, MEAN, VARIANCES)
    return oracles.mixture(process, WEIGHTS, MEANS, SPREADS)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_score_is_the_gradient_of_the_log_density(name: str, prior: str) -> None:
    oracle = oracle_of(name, process_of(prior))
    c = draw(5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_prob(c, TIMES).sum(), c)
    torch.testing.assert_close(oracle(c.detach()[:, None], TIMES).score, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_density_integrates_to_one(name: str) -> None:
    process = build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, (1,))
    if name == "gaussian":
        oracle = oracles.gaussian(process, MEAN[:1], VARIANCES[:1])
    else:
        oracle = oracles.mixture(process, WEIGHTS, MEANS[:, :1], SPREADS[:, :1])
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64)[:, None]
    total = torch.trapezoid(oracle.log_prob(grid, 0.3).exp(), dx=30 / 6000)
    assert abs(float(total) - 1) < 1e-9


def test_prediction_is_the_posterior_mean_of_the_mixture() -> None:
    process = build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, (1,))
    oracle = oracles.mixture(process, WEIGHTS, MEANS[:, :1], SPREADS[:, :1])
    m, c_t = process.marginal(0.4), 0.7
    grid = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    clean = oracle.log_prob(grid[:, None], 0.0)
    posterior = torch.softmax(clean - 0.5 * ((c_t - float(m.alpha) * grid) / float(m.sigma)).square(), dim=0)
    found = oracle(torch.tensor([[[c_t]]], dtype=torch.float64), 0.4).x_0
    assert abs(float(found) - float((posterior * grid).sum())) < 1e-9


def test_mixture_of_one_is_the_gaussian() -> None:
    process, c = process_of("data"), draw(5, 3)
    one = oracles.mixture(process, torch.ones(1), MEAN[None], VARIANCES[None])
    other = oracles.gaussian(process, MEAN, VARIANCES)
    torch.testing.assert_close(one(c[:, None], TIMES).eps, other(c[:, None], TIMES).eps, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.log_prob(c, TIMES), other.log_prob(c, TIMES), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", ["standard", "data"])
def test_flow_solves_the_probability_flow_equation(prior: str) -> None:
    process = process_of(prior)
    oracle = oracles.gaussian(process, MEAN, VARIANCES)
    c, t, h = draw(4, 3), 0.4, 1e-5
    A, G = (part[:, 0, 0] for part in process.drift(t))
    velocity = A * c - 0.5 * G.square() * oracle(c[:, None], t).score
    slope = (oracle.flow(c, t, t + h) - oracle.flow(c, t, t - h)) / (2 * h)
    torch.testing.assert_close(slope, velocity, rtol=1e-6, atol=1e-8)


def test_flow_transports_the_density() -> None:
    oracle = oracles.gaussian(process_of(), MEAN, VARIANCES)
    c = draw(1, 3).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda start: oracle.flow(start, 0.1, 0.9)[0], c)[:, 0]
    moved = oracle.log_prob(oracle.flow(c, 0.1, 0.9), 0.9) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(moved, oracle.log_prob(c, 0.1), rtol=1e-11, atol=0)


def test_flow_in_white_coordinates_of_zero_mean_data_is_the_identity() -> None:
    oracle = oracles.gaussian(process_of("data"), torch.zeros(3), VARIANCES)
    c = draw(4, 3)
    torch.testing.assert_close(oracle.flow(c, 0.0, 1.0), c, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_one_time_or_one_per_row(name: str) -> None:
    oracle, c = oracle_of(name, process_of()), draw(3, 3)
    for t in (0.3, torch.tensor(0.3), torch.full((3,), 0.3)):
        torch.testing.assert_close(
            oracle(c[:, None], t).eps, oracle(c[:, None], torch.tensor([0.3] * 3)).eps, rtol=0, atol=1e-6
        )
        assert oracle.log_prob(c, t).shape == (3,)


@pytest.mark.parametrize("schedule", [{"kind": "vp"}, {"kind": "cosine"}, {"kind": "gud", "softness_a": 30.0}])
@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_ends_are_finite(name: str, schedule: dict) -> None:
    oracle = oracle_of(name, process_of("standard", schedule))
    prediction = oracle(draw(2, 1, 3), torch.tensor([0.0, 1.0], dtype=torch.float64))
    for value in (prediction.eps, prediction.x_0, prediction.v):
        assert value.isfinite().all()


def test_entropy_of_the_standard_end() -> None:
    process = build_process({"kind": "spectral", "schedule": {"kind": "log_linear", "gamma_max": 40.0}}, (3,))
    at_mode = oracles.gaussian(process, MEAN, VARIANCES).log_prob(torch.zeros(1, 3), 1.0)
    assert abs(float(at_mode) + 1.5 * math.log(2 * math.pi)) < 1e-6


def test_dtype_of_the_state_is_kept() -> None:
    prediction = oracle_of("mixture", process_of())(draw(2, 1, 3).float(), 0.5)
    assert prediction.value.dtype == torch.float32
