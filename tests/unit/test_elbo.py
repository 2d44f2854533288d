"""The continuous ELBO against closed forms, for every schedule, basis and prior; its draws, batches and refusals."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.config import ConfigError, parse
from pipeline.diffusion import build_process, log_likelihood, oracles
from pipeline.diffusion.likelihoods import ElboSpec, LikelihoodSpec
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes import GaussianTerminal
from tests.diffusion_cases import (
    BASES,
    DIM,
    IMAGE_SHAPE,
    SCHEDULES,
    Counted,
    MarginalAtOne,
    gaussian_oracle,
    image_process,
    image_statistics,
    mixture_oracle,
    normal,
    slow,
    vector_process,
)

TERMS = ("total", "diffusion", "prior_kl", "reconstruction", "bits_per_dim", "se")
BLURRING = {"kind": "spectral", "basis": "dct", "schedule": {"kind": "blurring", "blur_max": 3.0}}


def elbo(process, predictor, x, **spec):
    cond, indices = spec.pop("cond", None), spec.pop("indices", None)
    return log_likelihood(process, predictor, x, {"kind": "elbo", **spec}, cond=cond, indices=indices)


def data(process, *, batch=3):
    """Draws from N(m, Sigma) of the process's own statistics, in data space."""
    return process.to_data(process.mean_components + process.variances.sqrt() * normal(9, batch, process.dim))


def relative_entropy(mean, variance, other_mean, other_variance):
    """KL of diagonal Gaussians, summed over components."""
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - other_mean) ** 2 / other_variance).sum(-1)


def gaussian_bound(process, c_0):
    """log p(c_0) - KL(q(c_1 | c_0) || prior) + KL(q(c_1 | c_0) || p_1): what the bound is for Gaussian data."""
    m = process.marginal(1.0)
    mean, variances = process.mean_components, process.variances
    log_density = -0.5 * (torch.log(2 * math.pi * variances) + (c_0 - mean) ** 2 / variances).sum(1)
    noise = m.sigma**2 + torch.zeros_like(variances)
    to_prior = relative_entropy(m.alpha * c_0, noise, 0.0, process.scale**2)
    to_marginal = relative_entropy(m.alpha * c_0, noise, m.alpha * mean, m.alpha**2 * variances + noise)
    return log_density - to_prior + to_marginal


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exact_gaussian_predictor_gives_the_closed_form_for_every_image_and_schedule(schedule, prior):
    process = image_process(schedule, prior=prior)
    x = data(process)
    terms = elbo(process, gaussian_oracle(process), x, num_times=2)
    expected = gaussian_bound(process, process.to_components(x))
    torch.testing.assert_close(terms.total, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("basis", BASES)
def test_exact_gaussian_predictor_gives_the_closed_form_in_every_basis(basis):
    process = image_process("gud", basis=basis)
    x = data(process)
    terms = elbo(process, gaussian_oracle(process), x, num_times=1)
    expected = gaussian_bound(process, process.to_components(x))
    torch.testing.assert_close(terms.total, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("schedule", ["log_linear", "gud", "gud_clipped", "columns"])
def test_expected_bound_of_gaussian_data_is_their_entropy_and_the_mismatch_of_the_prior(schedule, prior):
    """H = diffusion + I(c_0; c_1) + H(c_0 | c_{t_0}); what KL(q || prior) has above I is KL(p_1 || prior)."""
    process = image_process(schedule, prior=prior)
    spread = process.variances.sqrt()
    both = process.to_data(process.mean_components + torch.stack((spread, -spread)))
    terms = elbo(process, gaussian_oracle(process), both, num_times=1)  # the terms are squares: two points are exact
    entropy = 0.5 * torch.log(2 * math.pi * math.e * process.variances).sum()
    m = process.marginal(1.0)
    marginal = m.alpha**2 * process.variances + m.sigma**2
    mismatch = relative_entropy(m.alpha * process.mean_components, marginal, 0.0, process.scale**2)[0]
    torch.testing.assert_close(-terms.total.mean(), entropy + mismatch, rtol=0, atol=1e-9)
    first = process.marginal(0.0)
    lost = -0.5 * torch.log1p(first.alpha**2 * process.variances / first.sigma**2).sum()
    torch.testing.assert_close(terms.reconstruction.mean(), entropy + lost, rtol=0, atol=1e-9)


def test_white_gaussian_data_have_the_same_exact_bound_on_every_path():
    spec = {"kind": "spectral", "basis": "dct", "centre": "mean", "prior": "data"}
    totals = []
    for schedule in ("gud", "gud_clipped", "log_linear", "vp"):
        process = build_process(spec | {"schedule": SCHEDULES[schedule]}, IMAGE_SHAPE, image_statistics())
        x = image_process("gud").to_data(normal(2, 2, DIM))
        totals.append(elbo(process, gaussian_oracle(process), x, num_times=1).total)
        c = process.to_components(x)
        exact = torch.distributions.Normal(0.0, process.variances.sqrt()).log_prob(c).sum(1)
        torch.testing.assert_close(totals[-1], exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", ["log_linear", "gud", "gud_clipped", "columns"])
def test_diffusion_term_is_the_integral_of_the_weighted_error(schedule):
    process = image_process(schedule)
    x = data(process)
    d = process.to_components(x) - process.mean_components
    borders = [0.0, *process.schedule.kinks, 1.0]
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(32))
    expected = torch.zeros(3, dtype=torch.float64)
    for low, high in pairwise(borders):
        for node, weight in zip(nodes, weights, strict=True):
            m = process.marginal(low + (high - low) * (node + 1) / 2)
            v = m.alpha**2 * process.variances + m.sigma**2
            error = (m.alpha**2 * process.variances / v) ** 2 + (m.sigma * m.alpha / v * d) ** 2  # E|eps - eps_G|^2
            expected += (high - low) / 2 * weight * 0.5 * (m.d_gamma * error).sum(1)
    found = elbo(process, gaussian_oracle(process), x, num_times=1).diffusion
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_reconstruction_is_the_mean_of_the_decoder_over_the_noise():
    process = image_process("log_linear")
    c = process.to_components(data(process, batch=1))
    m = process.marginal(0.0)
    noise = normal(4, 20000, DIM)
    precision = 1 / process.variances + m.alpha**2 / m.sigma**2
    mean = (process.mean_components / process.variances + m.alpha / m.sigma**2 * (m.alpha * c + m.sigma * noise)) / (
        precision
    )
    drawn = -torch.distributions.Normal(mean, precision.rsqrt()).log_prob(c.expand_as(mean)).sum(1)
    found = elbo(process, gaussian_oracle(process), process.to_data(c), num_times=1).reconstruction
    assert abs(float(found[0] - drawn.mean())) < 4 * float(drawn.std()) / math.sqrt(len(drawn))


def quadrature(process, oracle, x):
    """The diffusion term of one two-dimensional image: Gauss-Hermite over the noise, Gauss-Legendre in time."""
    c = process.to_components(x)
    points, masses = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(40))
    noise, mass = torch.cartesian_prod(points, points), torch.outer(masses, masses).flatten() / masses.sum() ** 2
    total = 0.0
    borders = [0.0, *process.schedule.kinks, 1.0]
    nodes, weights = np.polynomial.legendre.leggauss(80)
    for low, high in pairwise(borders):
        for node, weight in zip(nodes, weights, strict=True):
            t = low + (high - low) * (node + 1) / 2
            m = process.marginal(t)
            error = (noise - oracle((m.alpha * c + m.sigma * noise)[:, None], t).eps) ** 2
            total += (high - low) / 2 * weight * 0.5 * float(mass @ (m.d_gamma * error).sum(1))
    return total


@pytest.mark.parametrize("schedule", ["log_linear", "gud", "gud_clipped"])
def test_estimate_is_unbiased_beside_a_mixture(schedule):
    process = vector_process(SCHEDULES[schedule], torch.tensor([1.5, 0.2], dtype=torch.float64))
    oracle, x = mixture_oracle(process), data(process, batch=1)
    drawn = elbo(process, oracle, x.expand(1000, -1), num_times=16).diffusion
    se = float(drawn.std()) / math.sqrt(1000)
    assert se < 0.03
    assert abs(float(drawn.mean()) - quadrature(process, oracle, x)) < 4 * se


@pytest.mark.parametrize("schedule", ["vp", "linear_beta", "cosine"])
def test_clean_starts_have_an_estimate_of_small_variance(schedule):
    """Uniform in t, weights of 1/t would give a deviation of tens of nats."""
    process = vector_process(SCHEDULES[schedule], torch.tensor([1.5, 0.2], dtype=torch.float64))
    x = data(process, batch=1)
    drawn = elbo(process, mixture_oracle(process), x.expand(500, -1), num_times=16).diffusion
    assert float(drawn.std()) < 2.0


def test_the_bound_of_a_mixture_lies_below_its_likelihood_on_average():
    process = vector_process(SCHEDULES["gud"], torch.tensor([1.5, 0.4, 0.1], dtype=torch.float64))
    oracle = mixture_oracle(process)
    chosen = torch.multinomial(oracle.weights, 64, replacement=True, generator=torch.Generator().manual_seed(1))
    x = process.to_data(oracle.means[chosen] + oracle.variances[chosen].sqrt() * normal(2, 64, 3))
    flow = log_likelihood(process, oracle, x, {"kind": "ode", "steps": 32, "trace": "exact"}).total
    gap = flow - elbo(process, oracle, x, num_times=64).total
    se = float(gap.std()) / 8
    assert -4 * se < float(gap.mean()) < 0.05 + 4 * se  # an exact predictor loses next to nothing
    assert se < 0.1

    def wrong(u_t, t, cond=None):
        right = oracle(u_t, t)
        return Prediction("eps", right.value + 0.3, u_t[:, 0], right.marginal)

    assert float((flow - elbo(process, wrong, x, num_times=64).total).mean()) > 1.0


def test_what_is_predicted_of_a_waiting_component_does_not_matter():
    process = image_process("gud_clipped")
    oracle, x, num_waiting = gaussian_oracle(process), data(process), []

    def careless(u_t, t, cond=None):
        prediction = oracle(u_t, t)
        waits = prediction.marginal.d_gamma == 0
        num_waiting.append(int(waits.sum()))
        return Prediction("eps", torch.where(waits, 1e6, prediction.value), u_t[:, 0], prediction.marginal)

    assert torch.equal(elbo(process, careless, x).total, elbo(process, oracle, x).total)
    assert sum(num_waiting) > 16


@pytest.mark.parametrize("schedule", ["vp", "gud"])
@pytest.mark.parametrize("make_oracle", [gaussian_oracle, mixture_oracle])
@pytest.mark.parametrize("basis", ["dct", "pca"])
def test_values_do_not_depend_on_the_batch(basis, make_oracle, schedule):
    process = image_process(schedule, basis=basis)
    oracle, x = make_oracle(process), data(process, batch=5)
    together = elbo(process, oracle, x, num_times=3, seed=4)
    alone = [elbo(process, oracle, x[i : i + 1], num_times=3, seed=4, indices=[i]) for i in range(5)]
    for name in TERMS:
        assert torch.equal(getattr(together, name), torch.cat([getattr(terms, name) for terms in alone])), name


def test_blurring_has_the_bound_of_its_variance_preserving_form():
    process = build_process(BLURRING, IMAGE_SHAPE, image_statistics())
    preserving = process.variance_preserving()
    x = data(process)
    found = elbo(process, mixture_oracle(process), x, num_times=2).total
    rescaled = elbo(preserving, mixture_oracle(preserving), x, num_times=2).total
    torch.testing.assert_close(found, rescaled, rtol=0, atol=1e-8)
    exact = elbo(process, gaussian_oracle(process), x, num_times=1).total
    torch.testing.assert_close(exact, gaussian_bound(preserving, process.to_components(x)), rtol=0, atol=1e-8)


def test_a_given_gaussian_prior_takes_the_place_of_the_standard_one():
    process = image_process("log_linear")
    m = process.marginal(1.0)
    exact = GaussianTerminal((m.alpha * process.mean_components)[0], (m.alpha**2 * process.variances + m.sigma**2)[0])
    ended = image_process("log_linear", terminal=exact)
    x = data(process)
    found = elbo(ended, gaussian_oracle(ended), x).total
    log_density = gaussian_oracle(process).log_prob(process.to_components(x), 0.0)
    white = (process.to_components(x) - process.mean_components).square() / process.variances
    expected = -0.5 * (torch.log(2 * math.pi * process.variances) + white).sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert float((found - log_density).abs().max()) > 1e-6  # that is the density of c_0, not of c_t at t = 0


def test_without_statistics_the_decoder_has_unit_variances():
    spec = {"kind": "spectral", "basis": "dct", "schedule": SCHEDULES["log_linear"]}
    process = build_process(spec, IMAGE_SHAPE)
    truth = oracles.gaussian(process, torch.zeros(DIM), torch.ones(DIM))
    x = normal(3, 2, *IMAGE_SHAPE)
    exact = -0.5 * (math.log(2 * math.pi) + process.to_components(x).square()).sum(1)
    torch.testing.assert_close(elbo(process, truth, x, num_times=1).total, exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("target", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("schedule", ["vp", "gud"])
def test_zero_network_output_gives_the_closed_form_for_every_target(target, schedule):
    process = image_process(schedule)
    predictor = Predictor(lambda x, t, gamma, cond: 0.0 * x, process, target)
    x = data(process)
    expected = gaussian_bound(process, process.to_components(x))
    torch.testing.assert_close(elbo(process, predictor, x).total, expected, rtol=0, atol=1e-6)


def test_terms_add_up_and_quantised_data_get_their_offset():
    process = image_process("gud")
    terms = elbo(process, mixture_oracle(process), data(process), quantisation=256)
    torch.testing.assert_close(terms.diffusion + terms.prior_kl + terms.reconstruction, -terms.total)
    torch.testing.assert_close(terms.bits_per_dim, 7 - terms.total / (DIM * math.log(2)))
    assert bool((terms.diffusion > 0).all())
    assert bool((terms.prior_kl > 0).all())


def test_stated_error_is_that_of_repeated_draws_or_a_little_larger():
    process = image_process("gud")
    x = data(process, batch=1).expand(400, *IMAGE_SHAPE)
    terms = elbo(process, mixture_oracle(process), x, num_times=8)
    assert 0.95 < float(terms.se.square().mean().sqrt() / terms.total.std()) < 1.5
    assert elbo(process, mixture_oracle(process), x[:1], num_times=1).se is None


def test_evaluations_are_counted_and_see_the_condition():
    process = image_process("gud")
    oracle = gaussian_oracle(process)
    given = Condition(label=torch.tensor([2, 0, 1]))

    def labelled(u_t, t, cond):
        assert cond is given
        assert tuple(t.shape) == (3,)
        return oracle(u_t, t)

    counted = Counted(labelled)
    terms = elbo(process, counted, data(process), num_times=5, cond=given)
    assert counted.calls == terms.nfe == 5


def test_no_gradients_are_kept():
    process = image_process("gud")
    network = torch.nn.Linear(4, 4)
    predictor = Predictor(lambda x, t, gamma, cond: network(x), process, "eps")
    assert not elbo(process, predictor, data(process), num_times=1).total.requires_grad


def test_the_bound_is_computed_on_the_device_of_the_data():
    process = image_process("gud", prior="data")
    predictor = Predictor(lambda x, t, gamma, cond: x**2, process, "v")
    terms = elbo(process, predictor, torch.empty(2, *IMAGE_SHAPE, device="meta"), num_times=2)
    assert terms.total.device == terms.reconstruction.device == torch.device("meta")


def test_processes_without_the_bound_are_refused():
    x = torch.zeros(1, *IMAGE_SHAPE)
    levels = {"kind": "spectral", "basis": "dct", "schedule": {"kind": "heat", "num_levels": 4, "noise": 0.01}}
    operator = {"kind": "operator", "degradation": {"kind": "pixelate_nearest"}, "num_levels": 2}
    for spec, sentence in ((levels, "no density"), (operator, "not diagonal")):
        with pytest.raises(ConfigError, match=sentence):
            elbo(build_process(spec, IMAGE_SHAPE), lambda *_: None, x)
    process = image_process("gud")
    ended = image_process("gud", terminal=MarginalAtOne(gaussian_oracle(process)))
    with pytest.raises(ConfigError, match="Gaussian prior"):
        elbo(ended, gaussian_oracle(process), x)
    with pytest.raises(ConfigError, match="draws its own noise"):
        log_likelihood(process, gaussian_oracle(process), x, {"kind": "elbo"}, probe=torch.zeros(1, 1, DIM))


def test_the_specification_reads_from_plain_values_and_refuses_nonsense():
    assert parse(LikelihoodSpec, {"kind": "elbo", "num_times": 4}, "likelihood") == ElboSpec(num_times=4)
    for wrong in ({"num_times": 0}, {"t_min": 0.0}, {"t_min": 1.0}, {"steps": 3}):
        with pytest.raises(ConfigError):
            parse(LikelihoodSpec, {"kind": "elbo", **wrong}, "likelihood")


@pytest.mark.parametrize("dim", [slow(3072)])
def test_many_steep_components_stay_finite(dim):
    process = vector_process({"kind": "gud", "softness_a": 20.0}, torch.logspace(2, -5, dim, dtype=torch.float64))
    x = data(process, batch=2)
    terms = elbo(process, gaussian_oracle(process), x, num_times=4)
    torch.testing.assert_close(terms.total, gaussian_bound(process, process.to_components(x)), rtol=1e-9, atol=1e-6)
