"""The bound over levels: closed forms on Gaussian data, brute force, and that it is a bound."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import build_process, log_likelihood
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes import TrainingImages, build_terminal
from tests.diffusion_cases import Counted, normal

SHAPE = (1, 2, 3)
DIM = 6
SIGMA, DELTA, NUM_LEVELS = 0.2, 0.25, 4
MEAN = 0.3 * normal(1, DIM)
VARIANCES = torch.tensor([0.5, 0.2, 0.1, 0.08, 0.05, 0.03], dtype=torch.float64)
BOUND = {"kind": "ihdm_bound"}


def heat(*, noise=SIGMA, blur_max=1.5):
    schedule = {"kind": "heat", "num_levels": NUM_LEVELS, "blur_min": 0.3, "blur_max": blur_max, "noise": noise}
    return build_process({"kind": "spectral", "basis": "dct", "schedule": schedule}, SHAPE)


def gaussian_data(process, count, *, seed=2):
    """Images whose components are N(MEAN, diag VARIANCES)."""
    return process.to_data(MEAN + VARIANCES.sqrt() * normal(seed, count, DIM))


def ended(process, spec, images=None):
    data = None if images is None else TrainingImages(len(images), lambda positions: images[list(positions)])
    return replace(process, terminal=build_terminal(spec, process, data))


def one_image_process():
    """Its prior is a single Gaussian, so that every term of the bound has a closed form."""
    process = heat()
    return ended(process, {"kind": "training_images"}, process.to_data(MEAN[None]))


class ExactMean:
    """The conditional mean of D(x_0, s) given the state, for the Gaussian data."""

    def __init__(self, process):
        self.process = process

    def gain(self, t):
        """E[c_0 | c_t] = MEAN + gain (c_t - alpha MEAN)."""
        alpha = self.process.marginal(t).alpha
        return alpha * VARIANCES / (alpha.square() * VARIANCES + SIGMA**2)

    def __call__(self, u_t, t, cond):
        at_t, at_s = self.process.marginal(t), self.process.marginal(cond.time_to)
        x_0 = MEAN + self.gain(t) * (u_t[:, 0] - at_t.alpha * MEAN)
        return Prediction("x_prev", at_s.alpha * x_0, u_t[:, 0], at_t, at_s)


def design(batch):
    """+-sqrt(D) e_i: with an affine predictor the mean over them is that over unit noise, exactly. (2 D, batch, D)."""
    points = math.sqrt(DIM) * torch.eye(DIM, dtype=torch.float64)
    return torch.cat([points, -points])[:, None].expand(-1, batch, -1)


def levels():
    return [torch.tensor(k / NUM_LEVELS, dtype=torch.float64) for k in range(NUM_LEVELS + 1)]


def expected_squares(process, c_0):
    """E ||D(x_0, s) - prediction||^2 over the noise of level k, for k = 1 ... K: `(K, batch)`."""
    exact, times, rows = ExactMean(process), levels(), []
    for s, t in pairwise(times):
        alpha_s, alpha_t, gain = process.marginal(s).alpha, process.marginal(t).alpha, exact.gain(t)
        bias = alpha_s * (1 - gain * alpha_t) * (c_0 - MEAN)
        rows.append((bias.square() + (alpha_s * gain * SIGMA).square()).sum(1))
    return torch.stack(rows)


def model_log_density(process, x):
    """log p(x_0) of the chain itself: linear and Gaussian, hence Gaussian in each component."""
    exact, times = ExactMean(process), levels()
    mean = process.marginal(times[-1]).alpha * MEAN
    variance = torch.full((1, DIM), DELTA**2, dtype=torch.float64)
    for t, s in pairwise(reversed(times)):
        slope = process.marginal(s).alpha * exact.gain(t)
        mean = process.marginal(s).alpha * MEAN + slope * (mean - process.marginal(t).alpha * MEAN)
        variance = slope.square() * variance + DELTA**2
    residual = process.to_components(x) - mean
    return -0.5 * (residual.square() / variance + torch.log(2 * math.pi * variance)).sum(1)


def test_terms_equal_their_closed_forms_on_gaussian_data():
    process = one_image_process()
    x = gaussian_data(process, 3)
    terms = log_likelihood(process, ExactMean(process), x, BOUND, probe=design(3))
    c_0 = process.to_components(x)
    squares = expected_squares(process, c_0) / (2 * DELTA**2)
    steps = squares[1:] + 0.5 * DIM * (SIGMA**2 / DELTA**2 - 1 + 2 * math.log(DELTA / SIGMA))
    first = squares[0] + DIM * math.log(DELTA * math.sqrt(2 * math.pi))
    alpha_T = process.marginal(1.0).alpha
    entropy = (alpha_T * (c_0 - MEAN)).square().sum(1) / (2 * DELTA**2)
    last = entropy + 0.5 * DIM * (SIGMA**2 / DELTA**2 - 1 + 2 * math.log(DELTA / SIGMA))
    torch.testing.assert_close(terms.steps, steps, rtol=0, atol=1e-11)
    torch.testing.assert_close(-terms.reconstruction, first, rtol=0, atol=1e-11)
    torch.testing.assert_close(-terms.prior, last, rtol=0, atol=1e-12)
    torch.testing.assert_close(terms.divergence, -terms.steps.sum(0), rtol=0, atol=0)
    torch.testing.assert_close(terms.total, terms.prior + terms.divergence + terms.reconstruction, rtol=0, atol=1e-12)


def test_brute_force_gives_the_same_bound():
    """E_q[log p(x_0, u) - log q(u | x_0)] over whole chains, densities written out."""
    process, exact, num = one_image_process(), ExactMean(one_image_process()), 40000
    x = gaussian_data(process, 1, seed=5)
    times, c_0 = levels(), process.to_components(x).expand(num, -1)
    chain = [c_0] + [process.degrade(c_0, t) + SIGMA * normal(10 + k, num, DIM) for k, t in enumerate(times[1:])]
    log_ratio = log_normal(chain[-1] - process.degrade(MEAN[None], 1.0), DELTA)
    for k in range(1, NUM_LEVELS + 1):
        cond = Condition(time_to=times[k - 1].expand(num))
        log_ratio = log_ratio + log_normal(chain[k - 1] - exact(chain[k][:, None], times[k], cond).x_prev, DELTA)
        log_ratio = log_ratio - log_normal(chain[k] - process.degrade(c_0, times[k]), SIGMA)
    terms = log_likelihood(process, exact, x, BOUND, probe=design(1))
    assert float(terms.total) == pytest.approx(float(log_ratio.mean()), abs=5 * float(log_ratio.std()) / math.sqrt(num))


def log_normal(residual, deviation):
    return -0.5 * (residual / deviation).square().sum(1) - DIM * math.log(deviation * math.sqrt(2 * math.pi))


def test_it_lies_below_the_density_of_the_model_and_on_average_below_that_of_the_data():
    process = one_image_process()
    x = gaussian_data(process, 200)
    terms = log_likelihood(process, ExactMean(process), x, BOUND, probe=design(200))
    of_model = model_log_density(process, x)
    residual = process.to_components(x) - MEAN
    of_data = -0.5 * (residual.square() / VARIANCES + torch.log(2 * math.pi * VARIANCES)).sum(1)
    assert bool((terms.total < of_model).all())
    assert float(terms.total.mean()) < float(of_model.mean()) < float(of_data.mean())


def test_with_many_training_images_it_stays_below_the_data_s_own_density():
    process = heat()
    process = ended(process, {"kind": "training_images"}, gaussian_data(process, 3000, seed=8))
    x = gaussian_data(process, 200)
    terms = log_likelihood(process, ExactMean(process), x, BOUND, probe=design(200))
    residual = process.to_components(x) - MEAN
    of_data = -0.5 * (residual.square() / VARIANCES + torch.log(2 * math.pi * VARIANCES)).sum(1)
    assert float(terms.total.mean()) < float(of_data.mean())
    one = log_likelihood(one_image_process(), ExactMean(process), x, BOUND, probe=design(200))
    assert float(terms.prior.mean()) > float(one.prior.mean())


@pytest.mark.parametrize("spec", [{"kind": "zeros"}, {"kind": "flat_colour", "mean": [0.1], "covariance": [[0.04]]}])
def test_flat_ends_are_priors_too(spec):
    process = ended(heat(blur_max=20.0), spec)
    terms = log_likelihood(process, ExactMean(process), gaussian_data(process, 3), BOUND)
    c_T = process.degrade(process.to_components(gaussian_data(process, 3)), 1.0)
    torch.testing.assert_close(terms.prior, -process.terminal.relative_entropy(c_T, SIGMA, 1.25 * SIGMA))


def test_delta_is_1_25_sigma_unless_it_is_given():
    process = one_image_process()
    x = gaussian_data(process, 2)
    totals = [
        log_likelihood(process, ExactMean(process), x, BOUND | {"delta": delta}).total for delta in (None, 0.25, 0.3)
    ]
    assert torch.equal(totals[0], totals[1])
    assert bool((totals[0] != totals[2]).all())


def test_seeded_draws_have_the_mean_of_unit_noise():
    process = one_image_process()
    x = gaussian_data(process, 1).expand(50, -1, -1, -1)
    drawn = log_likelihood(process, ExactMean(process), x, BOUND | {"num_probes": 4}).total
    exact = log_likelihood(process, ExactMean(process), x[:1], BOUND, probe=design(1)).total
    assert float(drawn.mean()) == pytest.approx(float(exact), abs=5 * float(drawn.std()) / math.sqrt(50))
    assert float(drawn.std()) > 0


def test_stated_error_is_that_of_repeated_draws():
    process = one_image_process()
    x = gaussian_data(process, 1).expand(400, -1, -1, -1)
    terms = log_likelihood(process, ExactMean(process), x, BOUND | {"num_probes": 6})
    assert terms.num_probes == 6
    assert float(terms.se.square().mean().sqrt()) == pytest.approx(float(terms.total.std()), rel=0.15)
    assert log_likelihood(process, ExactMean(process), x[:1], BOUND).se is None


def test_a_value_does_not_depend_on_its_batch():
    process = one_image_process()
    x = gaussian_data(process, 5)
    whole = log_likelihood(process, ExactMean(process), x, BOUND, indices=[4, 9, 2, 7, 1])
    alone = log_likelihood(process, ExactMean(process), x[3:4], BOUND, indices=[7])
    assert torch.equal(alone.total, whole.total[3:4])
    other = log_likelihood(process, ExactMean(process), x[3:4], BOUND, indices=[8])
    assert not torch.equal(other.total, alone.total)


def test_every_level_has_its_own_noise_and_every_draw_too():
    process, seen = one_image_process(), []

    def recorded(u_t, t, cond):
        seen.append((u_t[:, 0] - process.degrade(c_0, t)) / SIGMA)
        return ExactMean(process)(u_t, t, cond)

    c_0 = process.to_components(gaussian_data(process, 1))
    log_likelihood(process, recorded, gaussian_data(process, 1), BOUND | {"num_probes": 2})
    assert len({tuple(eps.flatten().tolist()) for eps in seen}) == 2 * NUM_LEVELS


def test_explicit_noise_replaces_the_draws():
    process = one_image_process()
    x = gaussian_data(process, 2)
    silent = log_likelihood(process, ExactMean(process), x, BOUND, probe=torch.zeros(1, 2, DIM).double())
    c_0, exact = process.to_components(x), ExactMean(process)
    clean = exact(process.degrade(c_0, 0.25)[:, None], torch.tensor(0.25), Condition(time_to=torch.zeros(2))).x_prev
    expected = -(c_0 - clean).square().sum(1) / (2 * DELTA**2) - DIM * math.log(DELTA * math.sqrt(2 * math.pi))
    torch.testing.assert_close(silent.reconstruction, expected)


def test_condition_evaluations_and_bits():
    process = one_image_process()
    x, label, seen = gaussian_data(process, 2), torch.tensor([1, 0]), []

    def recorded(u_t, t, cond):
        seen.append((cond.label is label, round(float(t) * NUM_LEVELS), round(float(cond.time_to[0]) * NUM_LEVELS)))
        return ExactMean(process)(u_t, t, cond)

    counted = Counted(recorded)
    spec = BOUND | {"num_probes": 3, "quantisation": 17}
    terms = log_likelihood(process, counted, x, spec, cond=Condition(label=label))
    assert counted.calls == terms.nfe == 3 * NUM_LEVELS
    assert set(seen) == {(True, level, level - 1) for level in range(1, NUM_LEVELS + 1)}
    torch.testing.assert_close(terms.bits_per_dim, -terms.total / (DIM * math.log(2)) + math.log2(17 / 2))
    torch.testing.assert_close(terms.x_T, process.to_data(process.degrade(process.to_components(x), 1.0)))


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (lambda: heat(noise=0.0), "needs noise on every level"),
        (heat, "terminal distribution"),
        (lambda: build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, SHAPE), "levels of a degradation"),
    ],
)
def test_what_has_no_bound_is_refused(process, message):
    built = process()
    with pytest.raises(ConfigError, match=message):
        log_likelihood(built, ExactMean(built), gaussian_data(heat(), 1), BOUND)


@pytest.mark.parametrize("kind", ["zeros", "flat_colour", "training_images"])
def test_the_bound_is_computed_where_the_data_are(kind):
    """The meta device refuses to meet a tensor of the host, as an accelerator does."""
    colour = {"mean": [0.1], "covariance": [[0.04]]} if kind == "flat_colour" else {}
    process = ended(heat(), {"kind": kind} | colour, gaussian_data(heat(), 5))
    predictor = Predictor(lambda x, t, gamma, cond: torch.zeros_like(x), process, "x_prev")
    terms = log_likelihood(process, predictor, torch.empty(3, *SHAPE, device="meta"), BOUND)
    assert terms.total.device == terms.x_T.device == torch.device("meta")
    assert terms.total.dtype == torch.float64
