"""The bound of discrete data: against its own definition, entropies of tables, and what does not change it."""

import math

import pytest
import torch

from pipeline.config import ConfigError, parse
from pipeline.diffusion import Statistics, build_process, log_likelihood, oracles
from pipeline.diffusion.likelihoods import LikelihoodSpec, VlbSpec
from pipeline.diffusion.likelihoods.bound_paths import path_offsets
from pipeline.diffusion.likelihoods.draws import systematic_error
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
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
)

TERMS = ("total", "diffusion", "prior_kl", "reconstruction", "bits_per_dim", "se")
LEVELS = 17
NUM_TABLE = 4  # levels of the two entries of `PAIRS`


def vlb(process, predictor, x, **spec):
    cond, indices = spec.pop("cond", None), spec.pop("indices", None)
    tree = {"kind": "vlb", "quantisation": LEVELS, **spec}
    return log_likelihood(process, predictor, x, tree, cond=cond, indices=indices)


def images(batch=3):
    """Bin centres of 17 levels."""
    level = ((normal(9, batch, *IMAGE_SHAPE) + 3) / 6 * LEVELS).floor().clamp(0, LEVELS - 1)
    return (2 * level + 1) / LEVELS - 1


def pairs():
    """All pairs of four levels as data, and dependent probabilities for them."""
    level = torch.cartesian_prod(torch.arange(NUM_TABLE), torch.arange(NUM_TABLE)).double()
    weights = torch.exp(-0.7 * (level[:, 0] - level[:, 1]).square() + 0.2 * level[:, 0])
    return (2 * level + 1) / NUM_TABLE - 1, weights / weights.sum()


def pair_process(schedule, basis="dct"):
    """A process fitted to the moments of `pairs`, and the exact predictor of them."""
    points, weights = pairs()
    mean = weights @ points
    covariance = torch.einsum("k,ki,kj->ij", weights, points - mean, points - mean)
    statistics = Statistics.from_moments(mean, covariance, basis, (2,), quantisation=None)
    process = build_process({"kind": "spectral", "basis": basis, "schedule": schedule}, (2,), statistics)
    clean = process.to_components(points)

    def predict(u_t, t, cond=None):
        c, m = u_t[:, 0], process.marginal(t)
        distance = ((c[:, None] - m.alpha[:, None] * clean) / m.sigma[:, None]).square().sum(2)
        x_0 = torch.softmax(weights.log() - distance / 2, dim=1) @ clean
        return Prediction("eps", (c - m.alpha * x_0) / m.sigma, u_t[:, 0], m)

    return process, predict


def excess(process, predict, *, repeats=60, **spec):
    """Mean bound of `pairs` above their entropy, in nats, and its standard error."""
    points, weights = pairs()
    terms = vlb(process, predict, points.repeat(repeats, 1), quantisation=NUM_TABLE, **spec)
    each = -terms.total.reshape(repeats, len(points))
    error = (weights * each.std(0)).square().sum().sqrt() / math.sqrt(repeats)
    return float(weights @ each.mean(0) + weights @ weights.log()), float(error)


def gud(log_snr_data):
    return {"kind": "gud", "softness_a": 1.5, "log_snr_data": log_snr_data, "log_snr_prior": -8.0}


LINEAR = {"kind": "log_linear", "gamma_min": -8.0, "gamma_max": 8.0}


@pytest.mark.parametrize(
    ("schedule", "basis"),
    [(gud(9.0), "dct"), slow(gud(9.0), "pixel"), slow(LINEAR, "dct"), slow({"kind": "vp"}, "pca")],
)
def test_with_noise_below_a_bin_an_exact_predictor_pays_the_entropy_on_every_path(schedule, basis):
    """Also where components start at different noise levels: then entries are certain, whatever correlates them."""
    found, error = excess(*pair_process(schedule, basis), start_noise=0.1)
    assert abs(found) < 4 * error + 1e-3
    assert error < 0.2


def test_a_decoder_of_single_entries_stays_a_bound_where_the_noise_of_entries_is_correlated():
    process, predict = pair_process(gud(0.0))
    m = process.marginal(0.0)
    assert float((m.sigma / m.alpha).max() / (m.sigma / m.alpha).min()) > 1.5
    found, error = excess(process, predict)
    assert found > 4 * error


def test_a_scalar_schedule_has_the_same_bound_in_every_basis():
    components = image_statistics().components
    statistics = Statistics(torch.zeros(DIM), torch.ones(DIM), components)
    totals = []
    for basis in BASES:
        spec = {"kind": "spectral", "basis": basis, "schedule": SCHEDULES["log_linear"]}
        process = build_process(spec, IMAGE_SHAPE, statistics if basis == "pca" else None)
        means, variances = process.to_components(images(2)), torch.full((2, DIM), 0.05)
        oracle = oracles.mixture(process, torch.tensor([0.4, 0.6]), means, variances)
        totals.append(vlb(process, oracle, images(), num_times=2).total)
        torch.testing.assert_close(totals[-1], totals[0], rtol=0, atol=1e-6)


def step_losses(process, oracle, x, num_levels, first, variance):
    """Mean KL of each step from the process's own posteriors; the noise at +-1 is exact for a Gaussian predictor."""
    c_0, losses = process.to_components(x), []
    for k in range(first + 1, num_levels + 1):
        s, t = (k - 1) / num_levels, k / num_levels
        m, total = process.marginal(t), 0.0
        for sign in (1.0, -1.0):
            c_t = m.alpha * c_0 + sign * m.sigma
            predicted = oracle(c_t[:, None], torch.tensor(t)).x_0
            mean, covariance = process.posterior(c_t[:, None], c_0, s, t)
            guess = process.posterior(c_t[:, None], predicted, s, t)[0]
            own = covariance[:, 0, 0].expand(len(x), DIM)
            model = own if variance == "small" else process.transition(s, t)[1][:, 0, 0].expand(len(x), DIM)
            distance = (mean - guess)[:, 0].square() / model
            each = own / model - 1 - torch.log(own / model) + distance
            total = total + 0.25 * torch.where(own > 0, each, 0.0).sum(1)  # else the component waits
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(("schedule", "first"), [("gud", 0), ("log_linear", 0), ("columns", 0), ("vp", 1)])
def test_a_chain_is_the_sum_of_its_steps_kl_divergences(schedule, first, variance):
    process = image_process(schedule)
    oracle, x = gaussian_oracle(process), images()
    expected = step_losses(process, oracle, x, 5, first, variance).sum(0)
    for num_times in (None, 3):
        found = vlb(process, oracle, x, num_levels=5, variance=variance, num_times=num_times).diffusion
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("schedule", ["gud", slow("gud_clipped"), "log_linear", slow("columns")])
def test_in_continuous_time_diffusion_and_prior_are_those_of_the_density_bound(schedule, prior):
    process = image_process(schedule, prior=prior)
    oracle, x = gaussian_oracle(process), images()
    of_density = log_likelihood(process, oracle, x, {"kind": "elbo"})
    found = vlb(process, oracle, x)
    for name in ("diffusion", "prior_kl"):
        torch.testing.assert_close(getattr(found, name), getattr(of_density, name), rtol=0, atol=1e-9)


def test_chains_approach_continuous_time_from_above():
    process = image_process("gud")
    oracle, x = gaussian_oracle(process), images()
    continuous = vlb(process, oracle, x).diffusion
    gaps = [vlb(process, oracle, x, num_levels=n).diffusion - continuous for n in (50, 100, 1000)]
    assert bool((gaps[0] > gaps[1]).all() & (gaps[1] > gaps[2]).all() & (gaps[2] > 0).all())
    torch.testing.assert_close(gaps[0] / gaps[1], torch.full((3,), 2.0).double(), rtol=0.1, atol=0)


@pytest.mark.parametrize("schedule", ["log_linear", "gud"])
def test_drawn_steps_estimate_the_walk_over_all_of_them(schedule):
    process = image_process(schedule)
    oracle, x = mixture_oracle(process), images(1).expand(200, *IMAGE_SHAPE)
    drawn = vlb(process, oracle, x, num_levels=20, num_times=4).diffusion
    walked = vlb(process, oracle, x, num_levels=20, num_times=None).diffusion
    error = float(drawn.std() / math.sqrt(200) + walked.std() / math.sqrt(200))
    assert abs(float(drawn.mean() - walked.mean())) < 4 * error


def test_levels_that_say_nothing_cost_their_bits():
    """Independent uniform levels: eight bits for 256, whatever the predictor, once the noise hides them all."""
    process = build_process(
        {
            "kind": "spectral",
            "basis": "pixel",
            "schedule": {"kind": "log_linear", "gamma_min": 19.0, "gamma_max": 20.0},
        },
        IMAGE_SHAPE,
    )
    still = oracles.gaussian(process, torch.zeros(DIM), torch.full((DIM,), 1e-12, dtype=torch.float64))
    level = (normal(2, 4, *IMAGE_SHAPE).mul(60) + 128).floor().clamp(0, 255)
    bits = vlb(process, still, (2 * level + 1) / 256 - 1, quantisation=256, num_probes=8).bits_per_dim
    torch.testing.assert_close(bits, torch.full((4,), 8.0, dtype=torch.float64), rtol=0, atol=1e-3)


def test_terms_add_up_and_nothing_is_added_to_the_bits():
    process = image_process("gud")
    terms = vlb(process, mixture_oracle(process), images())
    torch.testing.assert_close(terms.diffusion + terms.prior_kl + terms.reconstruction, -terms.total)
    torch.testing.assert_close(terms.bits_per_dim, -terms.total / (DIM * math.log(2)))
    for name in ("diffusion", "prior_kl", "reconstruction"):
        assert bool((getattr(terms, name) > 0).all()), name


@pytest.mark.parametrize("spec", [{}, {"num_levels": 40}])
@pytest.mark.parametrize("schedule", ["log_linear", "gud", "vp"])
def test_a_bound_begins_where_the_noise_is_what_was_asked(schedule, spec):
    process = image_process(schedule)
    recorder = []

    def recorded(u_t, t, cond):
        recorder.append(t)
        return gaussian_oracle(process)(u_t, t)

    vlb(process, recorded, images(40), start_noise=0.6, num_times=16, **spec)
    times = torch.stack(recorder)

    def noise(t):
        m = process.marginal(t)
        return float((m.sigma / m.alpha).square().mean().sqrt()) * LEVELS / 2

    start = next(t for t in torch.linspace(0, 1, 4001) if noise(t) >= 0.6)
    if spec:
        start = math.ceil(float(start) * 40 - 0.01) / 40
        assert float(times.min()) == pytest.approx(start + 1 / 40, abs=1e-9)  # the step that ends at the first level
    else:
        assert float(start) - 1e-3 <= float(times.min()) <= float(start) + 0.01


def test_decoding_from_more_noise_than_the_bins_can_tell_trades_diffusion_for_reconstruction():
    process = image_process("log_linear")
    early, late = (vlb(process, gaussian_oracle(process), images(), start_noise=noise) for noise in (0.1, 1.0))
    assert bool((late.diffusion < early.diffusion).all())
    assert bool((late.reconstruction > early.reconstruction).all())
    assert float(late.total.mean()) > float(early.total.mean())  # a Gaussian predictor does not know the levels


def test_clean_starts_are_decoded_at_half_a_bin():
    process = image_process("vp")
    oracle, x = mixture_oracle(process), images()
    assert torch.equal(vlb(process, oracle, x).total, vlb(process, oracle, x, start_noise=0.5).total)


DISCRETISED = {"decoder": "discretised_gaussian", "num_levels": 20, "num_times": 3}


@pytest.mark.parametrize("basis", ["dct", "pca"])
@pytest.mark.parametrize(("schedule", "spec"), [("vp", {}), ("gud", {"num_levels": 8}), ("log_linear", DISCRETISED)])
@pytest.mark.parametrize("make_oracle", [gaussian_oracle, mixture_oracle])
def test_values_do_not_depend_on_the_batch(make_oracle, schedule, spec, basis):
    process = image_process(schedule, basis=basis)
    oracle, x = make_oracle(process), images(5)
    given = {"num_times": 9, "num_probes": 9, "seed": 4, **spec}
    together = vlb(process, oracle, x, **given)
    alone = [vlb(process, oracle, x[i : i + 1], **given, indices=[i]) for i in range(5)]
    for name in TERMS:
        assert torch.equal(getattr(together, name), torch.cat([getattr(terms, name) for terms in alone])), name


def test_float32_centres_give_the_bits_of_exact_ones():
    process = image_process("gud")
    exact, rounded = (vlb(process, mixture_oracle(process), x) for x in (images(), images().float()))
    assert torch.equal(exact.total, rounded.total)


def test_first_times_of_consecutive_images_are_spread_evenly():
    for first in (0, 1000):
        offsets = path_offsets(3, range(first, first + 100)).sort().values
        gaps = torch.cat((offsets, offsets[:1] + 1)).diff()
        assert float(gaps.max()) < 2.7 / 100  # random ones leave gaps of 5 / 100
        assert float(gaps.min()) > 0.3 / 100
    assert not torch.equal(path_offsets(3, range(4)), path_offsets(4, range(4)))


@pytest.mark.parametrize("spec", [{}, {"num_levels": 20}])
@pytest.mark.parametrize("schedule", ["log_linear", "gud", slow("cosine")])
def test_stated_error_is_that_of_repeated_seeds_or_a_little_larger(schedule, spec):
    process = image_process(schedule)
    oracle, x = mixture_oracle(process), images(1).expand(400, *IMAGE_SHAPE)
    terms = vlb(process, oracle, x, num_times=8, **spec)
    ratio = float(terms.se.square().mean().sqrt() / terms.total.std())
    assert 0.9 < ratio < 1.6


def test_one_draw_says_nothing_about_its_error():
    process = image_process("gud")
    assert vlb(process, gaussian_oracle(process), images(), num_times=1).se is None
    assert vlb(process, gaussian_oracle(process), images(), num_probes=1).se is None
    assert systematic_error(torch.zeros(2, 3)).tolist() == [0.0, 0.0, 0.0]


def test_evaluations_are_counted_and_see_the_condition():
    process = image_process("gud")
    oracle, given = gaussian_oracle(process), Condition(label=torch.tensor([2, 0, 1]))

    def labelled(u_t, t, cond):
        assert cond is given
        assert tuple(t.shape) == (3,)
        return oracle(u_t, t)

    for spec, nfe in (({"num_times": 5}, 5), ({"num_times": None, "num_levels": 7}, 7), (DISCRETISED, 5)):
        counted = Counted(labelled)
        terms = vlb(process, counted, images(), cond=given, **spec)
        assert counted.calls == terms.nfe == nfe


def test_discretised_gaussian_walks_the_levels_of_the_process_and_decodes_the_first():
    process = image_process("betas")
    counted = Counted(mixture_oracle(process))
    terms = vlb(process, counted, images(), decoder="discretised_gaussian", num_times=None, num_probes=3)
    assert terms.nfe == counted.calls == 6 + 3
    assert bool((terms.reconstruction > 0).all())


def test_discretised_gaussian_around_a_certain_predictor_costs_the_mass_of_a_centred_bin():
    process, x = image_process("log_linear"), images()

    def knows(u_t, t, cond=None):
        return Prediction("x0", process.to_components(x), u_t[:, 0], process.marginal(t))

    found = vlb(process, knows, x, **DISCRETISED).reconstruction
    deviation = float(process.posterior(torch.zeros(1, 1, DIM), torch.zeros(1, DIM), 0.05, 0.1)[1].flatten()[0].sqrt())
    law = torch.distributions.Normal(0.0, torch.tensor(deviation, dtype=torch.float64))
    inner, edge = torch.tensor([1 / LEVELS]).double(), torch.tensor([1 / LEVELS]).double()
    is_edge = (x.abs() > 1 - 1.5 / LEVELS).flatten(1)
    expected = torch.where(is_edge, -law.cdf(edge).log(), -(2 * law.cdf(inner) - 1).log()).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [{}, DISCRETISED])
def test_clipping_replaces_predictions_beyond_the_data_range_by_its_ends(spec):
    process, x = image_process("log_linear"), images()

    def says(value):
        shown = process.to_components(torch.full((3, *IMAGE_SHAPE), value, dtype=torch.float64))
        return lambda u_t, t, cond: Prediction("x0", shown, u_t[:, 0], process.marginal(t))

    beyond, at_end = vlb(process, says(1.7), x, clip=True, **spec), vlb(process, says(1.0), x, **spec)
    torch.testing.assert_close(beyond.total, at_end.total, rtol=1e-9, atol=0)
    inside, free = (vlb(process, says(0.3), x, clip=clip, **spec).total for clip in (True, False))
    torch.testing.assert_close(inside, free, rtol=1e-9, atol=0)
    assert bool((beyond.total > vlb(process, says(1.7), x, **spec).total).all())


def test_the_bound_is_computed_on_the_device_of_the_data():
    process = image_process("gud", prior="data")

    def predict(u_t, t, cond):
        return Prediction("eps", u_t[:, 0] ** 2, u_t[:, 0], process.marginal(t).to(u_t.device))

    for spec in ({}, {"num_levels": 4, "decoder": "discretised_gaussian"}):
        terms = vlb(process, predict, torch.empty(2, *IMAGE_SHAPE, device="meta"), num_times=2, **spec)
        assert terms.total.device == terms.reconstruction.device == torch.device("meta")


def test_what_has_no_such_bound_is_refused_in_a_sentence():
    x = images()
    heat = {"kind": "spectral", "basis": "dct", "schedule": {"kind": "heat", "num_levels": 4, "noise": 0.01}}
    operator = {"kind": "operator", "degradation": {"kind": "pixelate_nearest"}, "num_levels": 2}
    for spec, sentence in ((heat, "no density"), (operator, "not diagonal")):
        with pytest.raises(ConfigError, match=sentence):
            vlb(build_process(spec, IMAGE_SHAPE), lambda *_: None, x)
    process = image_process("gud")
    oracle = gaussian_oracle(process)
    with pytest.raises(ConfigError, match="Gaussian prior"):
        vlb(image_process("gud", terminal=MarginalAtOne(oracle)), oracle, x)
    with pytest.raises(ConfigError, match="vlb draws its own noise"):
        log_likelihood(process, oracle, x, {"kind": "vlb", "quantisation": LEVELS}, probe=torch.zeros(1, 3, DIM))
    with pytest.raises(ConfigError, match="give num_levels"):
        vlb(process, oracle, x, decoder="discretised_gaussian")
    with pytest.raises(ConfigError, match="between the 1000 levels"):
        vlb(image_process("linear_beta"), oracle, x, num_levels=300)
    with pytest.raises(ConfigError, match="decoded from level 1 has no step left"):
        vlb(image_process("vp"), oracle, x, num_levels=1)
    with pytest.raises(ConfigError, match="the process ends with less noise"):
        vlb(process, oracle, x, start_noise=1e6)
    with pytest.raises(ValueError, match="not dequantised"):
        vlb(process, oracle, x + 0.3 / LEVELS)


def test_the_specification_reads_from_plain_values_and_refuses_nonsense():
    assert parse(LikelihoodSpec, {"kind": "vlb", "num_times": 4}, "likelihood") == VlbSpec(num_times=4)
    wrong = [{"num_times": 0}, {"start_noise": 0.0}, {"quantisation": 1}, {"decoder": "none"}, {"variance": "large"}]
    wrong += [{"num_times": None}, {"num_levels": 0}, {"decoder": "discretised_gaussian", "start_noise": 0.5}]
    for tree in wrong:
        with pytest.raises(ConfigError):
            parse(LikelihoodSpec, {"kind": "vlb", **tree}, "likelihood")


@pytest.mark.parametrize("schedule", [slow(name) for name in SCHEDULES])
def test_every_schedule_has_a_finite_bound_in_time_and_on_a_chain(schedule):
    process = image_process(schedule)
    num_levels = process.num_levels or 10
    for spec in ({}, {"num_levels": num_levels}, {"num_levels": num_levels, "decoder": "discretised_gaussian"}):
        terms = vlb(process, mixture_oracle(process), images(), **spec)
        assert bool(torch.isfinite(terms.total).all())
