"""Likelihood in the angle of a scalar schedule, exact score: evaluation/nll.npz, see the page beside it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import Statistics, build_process, log_likelihood, oracles
from pipeline.diffusion.likelihoods.trace import value_and_divergence
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule
from tests.diffusion_cases import slow

ARRAYS = np.load(Path(__file__).parent / "evaluation" / "nll.npz")
CASES = ["gmm2d", "gauss16", "gmm8"]
VP = {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}


def tensor(name):
    return torch.from_numpy(ARRAYS[name]).to(torch.float64)


def oracle_of(case):
    """The exact predictor; the full covariance of gauss16 is diagonal in its own principal components."""
    spec = {"kind": "spectral", "basis": "pca", "centre": "grey", "prior": "standard", "schedule": VP}
    weights, means, covariances = (tensor(f"{case}__{name}") for name in ("weights", "means", "covs"))
    dim = means.shape[1]
    if case == "gauss16":
        statistics = Statistics.from_moments(means[0], covariances[0], "pca", (dim,), quantisation=None)
    else:
        statistics = Statistics(means[0], torch.ones(dim), torch.eye(dim))
    process = build_process(spec, shape=(dim,), statistics=statistics)
    rows = statistics.components
    variances = torch.einsum("ij,kjl,il->ki", rows, covariances, rows)
    return process, oracles.mixture(process, weights, process.to_components(means), variances)


def expected(case):
    """The reference's flow from t = 1e-5, moved to t = 0 where ours starts (a shift of up to 3e-3 nats)."""
    return tensor(f"{case}__logp_ode") + tensor(f"{case}__logp0") - tensor(f"{case}__logp_eps")


class Late(Schedule):
    """A schedule that begins at the time `start` of another, as the reference's flow does at 1e-5."""

    def __init__(self, schedule, start):
        self.schedule, self.start = schedule, start

    def level(self, t):
        found, rest = self.schedule.level(self.start + (1 - self.start) * t), 1 - self.start
        return NoiseLevel(found.gamma, rest * found.d_gamma, rest * found.beta)


def late_oracle_of(case):
    process, oracle = oracle_of(case)
    late = replace(process, schedule=Late(process.schedule, 1e-5))
    return late, oracles.mixture(late, oracle.weights, oracle.means, oracle.variances)


@pytest.mark.parametrize("case", CASES)
def test_density_and_score_equal_the_reference(case):
    process, oracle = oracle_of(case)
    x = tensor(f"{case}__x")
    c = process.to_components(x)
    torch.testing.assert_close(oracle.log_prob(c, 0.0), tensor(f"{case}__logp0"), rtol=0, atol=1e-9)
    torch.testing.assert_close(oracle.log_prob(c, 1e-5), tensor(f"{case}__logp_eps"), rtol=0, atol=1e-9)
    torch.testing.assert_close(oracle.log_prob(c, 0.3), tensor(f"{case}__exact_logp_t03"), rtol=0, atol=1e-8)
    score, divergence = value_and_divergence(lambda at: oracle(at[:, None], 0.3).score, c, None)
    torch.testing.assert_close(process.basis.to_data(score), tensor(f"{case}__exact_score_t03"), rtol=0, atol=1e-8)
    torch.testing.assert_close(divergence[0], tensor(f"{case}__exact_hess_trace_t03"), rtol=0, atol=1e-8)
    bits = -oracle.log_prob(c, 0.0) / (process.dim * math.log(2))
    torch.testing.assert_close(bits, tensor(f"{case}__bpd_exact0"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_sixteen_steps_err_by_less_than_3e_4_bits_per_dim(case):
    process, oracle = oracle_of(case)
    spec = {"kind": "ode", "solver": "rk4", "steps": 16, "trace": "exact"}
    terms = log_likelihood(process, oracle, tensor(f"{case}__x"), spec)
    error = (terms.total - expected(case)).abs() / (process.dim * math.log(2))
    assert terms.nfe == 64
    assert float(error.mean()) <= 3e-4


@pytest.mark.parametrize("case", ["gmm2d", slow("gauss16"), slow("gmm8")])
def test_sixty_four_steps_err_by_less_than_1e_4_nats(case):
    process, oracle = oracle_of(case)
    spec = {"kind": "ode", "solver": "rk4", "steps": 64, "trace": "exact"}
    terms = log_likelihood(process, oracle, tensor(f"{case}__x"), spec)
    assert float((terms.total - expected(case)).abs().max()) <= 1e-4


@pytest.mark.parametrize("case", [slow("gmm2d"), slow("gauss16"), slow("gmm8")])
def test_the_references_own_flow_from_1e_5_ends_where_it_ends(case):
    process, oracle = late_oracle_of(case)
    spec = {"kind": "ode", "solver": "rk4", "steps": 64, "trace": "exact"}
    terms = log_likelihood(process, oracle, tensor(f"{case}__x"), spec)
    torch.testing.assert_close(terms.x_T, tensor(f"{case}__z_ode"), rtol=0, atol=1e-5)
    torch.testing.assert_close(terms.total, tensor(f"{case}__logp_ode"), rtol=0, atol=1e-4)
    torch.testing.assert_close(terms.bits_per_dim, tensor(f"{case}__bpd_ode"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [slow("gmm2d"), slow("gauss16"), slow("gmm8")])
def test_many_steps_agree_with_the_reference_solver(case):
    process, oracle = late_oracle_of(case)
    spec = {"kind": "ode", "solver": "rk4", "steps": 320, "trace": "exact"}
    terms = log_likelihood(process, oracle, tensor(f"{case}__x"), spec)
    torch.testing.assert_close(terms.total, tensor(f"{case}__logp_ode"), rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_points_one_by_one_have_the_bits_of_their_batch(case):
    process, oracle = oracle_of(case)
    x = tensor(f"{case}__x")
    spec = {"kind": "ode", "steps": 2, "trace": "exact"}
    together = log_likelihood(process, oracle, x, spec)
    alone = [log_likelihood(process, oracle, x[i : i + 1], spec, indices=[i]) for i in range(0, len(x), 16)]
    for name in ("total", "x_T", "bits_per_dim"):
        assert torch.equal(getattr(together, name)[::16], torch.cat([getattr(terms, name) for terms in alone])), name


@pytest.mark.parametrize("index", range(4))
def test_terms_of_the_bound_of_scalar_gaussian_data_equal_the_reference(index):
    """Squares of the data alone enter: the points at plus and minus one deviation give the expectation."""
    low, high = (float(end) for end in ARRAYS["vdm__gamma"])
    schedule = {"kind": "log_linear", "gamma_min": low, "gamma_max": high}
    variance = tensor("vdm__s2")[index : index + 1]
    statistics = Statistics(torch.zeros(1), variance)
    process = build_process({"kind": "spectral", "basis": "pixel", "schedule": schedule}, (1,), statistics)
    oracle = oracles.gaussian(process, torch.zeros(1), variance)
    terms = log_likelihood(process, oracle, variance.sqrt() * torch.tensor([[1.0], [-1.0]]), {"kind": "elbo"})
    for name, key in (("diffusion", "diff"), ("prior_kl", "klz"), ("reconstruction", "recon")):
        assert float(getattr(terms, name).mean()) == pytest.approx(ARRAYS[f"vdm__{key}_nats"][index], abs=1e-8), name
    assert -float(terms.total.mean()) == pytest.approx(ARRAYS["vdm__total_nats"][index], abs=1e-8)
    last = process.marginal(1.0)
    at_one = float(last.alpha**2 * variance + last.sigma**2)
    mismatch = 0.5 * (at_one - 1 - math.log(at_one))
    assert -float(terms.total.mean()) == pytest.approx(ARRAYS["vdm__entropy_nats"][index] + mismatch, abs=1e-8)


def test_a_rademacher_probe_and_its_mirror_average_to_the_exact_trace():
    process, oracle = oracle_of("gmm2d")
    x = tensor("gmm2d__x")
    spec = {"kind": "ode", "steps": 12, "trace": "rademacher"}
    signs = [torch.tensor([1.0, second]).expand(1, len(x), 2) for second in (1.0, -1.0)]
    pair = [log_likelihood(process, oracle, x, spec, probe=probe).total for probe in signs]
    exact = log_likelihood(process, oracle, x, {**spec, "trace": "exact"}).total
    torch.testing.assert_close(0.5 * (pair[0] + pair[1]), exact, rtol=0, atol=1e-9)
    assert float((pair[0] - exact).abs().max()) > 0.1
