"""Where x_T comes from: laws, keys, noise, fitted settings."""

import math
from collections import Counter

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import build_process
from pipeline.diffusion.processes import (
    Density,
    GaussianTerminal,
    LevelPrior,
    Terminal,
    TrainingImages,
    build_terminal,
    fitted_terminal,
)
from pipeline.diffusion.processes.degradations import DEGRADATIONS
from pipeline.diffusion.processes.terminal.images import squared_distances
from tests.diffusion_cases import normal

SHAPE = (3, 8, 8)
DIM = math.prod(SHAPE)
COVARIANCE = [[0.04, 0.02, 0.0], [0.02, 0.09, -0.01], [0.0, -0.01, 0.01]]
FLAT = {"kind": "flat_colour", "mean": [0.1, -0.3, 0.5], "covariance": COVARIANCE, "noise": 0.0}
SOME = normal(1, 7, *SHAPE).clamp(-1, 1)
IMAGES = TrainingImages(len(SOME), lambda positions: SOME[list(positions)].float())
SPECS = [
    {"kind": "gaussian", "mean": [0.5] * DIM, "variances": [0.25] * DIM},
    {"kind": "zeros", "noise": 0.1},
    FLAT | {"noise": 0.1},
    {"kind": "training_images", "noise": 0.1},
]


def process_of(name="blur", **options):
    return build_process(DEGRADATIONS[name].process({"num_levels": 4, **options}), SHAPE)


def terminal_of(spec, name="blur"):
    return build_terminal(spec, process_of(name), IMAGES)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_a_start_is_a_function_of_seed_and_image_index_alone(spec):
    terminal = terminal_of(spec)
    whole = terminal.draw(range(20), 3)
    assert whole.shape == (20, *SHAPE)
    assert whole.dtype == torch.float32
    assert torch.equal(terminal.draw([17, 2], 3), whole[[17, 2]])
    assert bool((terminal.draw(range(20), 4) != whole).any(dim=(1, 2, 3)).all())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_every_image_starts_elsewhere(spec):
    draws = terminal_of(spec).draw(range(20), 3).flatten(1)
    assert len({tuple(row.tolist()) for row in draws}) == 20


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_terminals_can_be_told_from_densities(spec):
    terminal = terminal_of(spec)
    assert isinstance(terminal, Terminal)
    assert isinstance(terminal, Density) == (spec["kind"] == "gaussian")
    assert isinstance(terminal, LevelPrior) == (spec["kind"] != "gaussian")


@pytest.mark.parametrize(("name", "value"), [("blur", 0.0), ("black_blur", -1.0)])
def test_zeros_are_the_centre(name, value):
    silent, noisy = (terminal_of({"kind": "zeros", "noise": noise}, name).draw(range(500), 0) for noise in (0.0, 0.1))
    assert torch.equal(silent, torch.full_like(silent, value))
    assert float((noisy - value).square().mean().sqrt()) == pytest.approx(0.1, rel=0.02)


def test_flat_colours_are_flat_and_have_the_fitted_law():
    draws = terminal_of(FLAT).draw(range(20000), 0)
    colours = draws[:, :, 0, 0].double()
    assert torch.equal(draws, draws[:, :, :1, :1].expand_as(draws))
    assert torch.allclose(colours.mean(0), torch.tensor(FLAT["mean"]).double(), atol=0.01)
    assert torch.allclose(torch.cov(colours.T), torch.tensor(COVARIANCE).double(), atol=4e-3)


def test_a_singular_covariance_gives_colours_on_its_line():
    spec = FLAT | {"mean": [0.0, 0.0, 0.0], "covariance": [[0.04, 0.04, 0.04]] * 3}
    colours = terminal_of(spec).draw(range(100), 0)[:, :, 0, 0]
    torch.testing.assert_close(colours, colours[:, :1].expand(-1, 3), rtol=0, atol=1e-6)
    assert float(colours.std()) > 0.1


def test_vectors_have_one_channel():
    process = build_process({"kind": "spectral", "schedule": {"kind": "dim", "num_levels": 3}}, (6,))
    draws = build_terminal({"kind": "flat_colour", "mean": [0.2], "covariance": [[0.5]]}, process).draw([0, 1], 0)
    assert torch.equal(draws, draws[:, :1].expand(2, 6))


@pytest.mark.parametrize("kind", ["flat_colour", "training_images"])
def test_symmetry_noise_is_added_to_the_silent_start(kind):
    spec = FLAT if kind == "flat_colour" else {"kind": kind}
    silent, noisy = (terminal_of(spec | {"noise": noise}).draw(range(200), 5) for noise in (0.0, 0.3))
    difference = noisy - silent
    assert float(difference.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(difference.std()) == pytest.approx(0.3, rel=0.02)


def test_every_round_uses_each_training_image_once_in_a_new_order():
    terminal = terminal_of({"kind": "training_images"})
    positions = [terminal.positions(range(start, start + 7), 0) for start in range(0, 70, 7)]
    assert all(sorted(turn) == list(range(7)) for turn in positions)
    assert len({tuple(turn) for turn in positions}) > 5
    assert positions[0] != terminal.positions(range(7), 1)
    assert set(Counter(terminal.positions(range(70), 0)).values()) == {10}


@pytest.mark.parametrize("name", ["blur", "pixelate_nearest"])
def test_training_images_start_fully_degraded(name):
    process, terminal = process_of(name), terminal_of({"kind": "training_images"}, name)
    x = SOME[terminal.positions([3, 11], 0)].float().double()
    expected = process.to_data(process.degrade(process.to_components(x), 1.0)).float()
    torch.testing.assert_close(terminal.draw([3, 11], 0), expected, rtol=0, atol=1e-6)


def test_the_gaussian_draws_in_the_components_of_its_process():
    process = process_of("black_blur")
    mean, variances = normal(1, DIM), normal(2, DIM).exp()
    c = process.to_components(GaussianTerminal(mean, variances, process).draw(range(4000), 0)).double()
    error = (c.mean(0) - mean) / (variances / 4000).sqrt()
    assert float(error.abs().max()) < 5
    assert float((c.var(0) / variances).log().abs().max()) < 0.2


def test_a_gaussian_without_process_is_a_density_only():
    with pytest.raises(ValueError, match="density only"):
        GaussianTerminal(torch.zeros(4), torch.ones(4)).draw([0], 0)


def test_a_terminal_without_density_has_no_prior_density():
    process = build_process(DEGRADATIONS["blur"].process({"num_levels": 4}), SHAPE, terminal={"kind": "zeros"})
    assert torch.equal(process.terminal.draw([0], 0), torch.zeros(1, *SHAPE))
    with pytest.raises(ConfigError, match="no density"):
        process.prior_log_prob(torch.zeros(1, 1, DIM))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.0]}, "3 x 3|1 x 1"),
        ({"mean": [0.0], "covariance": [[1.0]]}, "3 channels"),
        ({"covariance": [[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]}, "negative"),
        ({"covariance": [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]}, "symmetric"),
        ({"noise": -0.1}, "greater than or equal"),
    ],
)
def test_impossible_colours_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        terminal_of(FLAT | change)


def test_training_images_must_be_given():
    with pytest.raises(ConfigError, match="training split"):
        build_terminal({"kind": "training_images"}, process_of())


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean zeros"):
        terminal_of({"kind": "zero"})


@pytest.mark.parametrize("kind", ["zeros", "flat_colour", "training_images"])
def test_a_fit_becomes_a_specification_with_noise(kind):
    fit = {"kind": kind, "mean": FLAT["mean"], "covariance": COVARIANCE, "count": 7, "flatness": 0.0}
    spec = fitted_terminal(fit, 0.02)
    assert spec is not None
    assert (spec.kind, spec.noise) == (kind, 0.02)
    if kind == "flat_colour":
        assert (spec.mean, spec.covariance) == (tuple(FLAT["mean"]), tuple(map(tuple, COVARIANCE)))


def test_a_gaussian_end_needs_no_fitted_terminal():
    assert fitted_terminal({"kind": "gaussian", "count": 7}, 0.0) is None


def sampled_entropy(terminal, process, c, sigma, delta, *, num=20000):
    """KL(N(c, sigma^2) || terminal + N(0, delta^2)) by drawing from the first, with the density of the second."""
    u = c + sigma * normal(9, num, DIM)
    log_q = -0.5 * ((u - c) / sigma).square().sum(1) - DIM * math.log(sigma * math.sqrt(2 * math.pi))
    ratio = log_q - terminal(u)
    return float(ratio.mean()), float(ratio.std() / math.sqrt(num))


def log_normal(residual, covariance):
    """log N(residual; 0, covariance), rows."""
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), residual.T, upper=False)
    return -0.5 * (whitened.square().sum(0) + torch.logdet(2 * math.pi * covariance))


@pytest.mark.parametrize("kind", ["zeros", "flat_colour"])
def test_relative_entropy_is_exact_for_the_centre_and_for_colours(kind):
    process, sigma, delta = process_of(), 0.2, 0.25
    terminal = terminal_of(FLAT if kind == "flat_colour" else {"kind": kind})
    c = process.to_components(0.1 * SOME[:1] + 0.2)
    covariance = delta**2 * torch.eye(DIM, dtype=torch.float64)
    mean = torch.zeros(SHAPE, dtype=torch.float64)
    if kind == "flat_colour":
        block = torch.tensor(COVARIANCE, dtype=torch.float64).repeat_interleave(64, 0).repeat_interleave(64, 1)
        covariance = covariance + process.basis.to_components(
            process.basis.to_components(block.reshape(DIM, *SHAPE)).T.reshape(DIM, *SHAPE)
        )
        mean = mean + torch.tensor(FLAT["mean"], dtype=torch.float64)[:, None, None]
    offset = process.to_components(mean[None])
    expected, error = sampled_entropy(lambda u: log_normal(u - offset, covariance), process, c, sigma, delta)
    assert float(terminal.relative_entropy(c, sigma, delta)) == pytest.approx(expected, abs=4 * error)
    assert error < 0.2


def test_relative_entropy_of_images_bounds_that_of_their_mixture():
    """With one image it is exact; with more it lies above, and at most ln M above the nearest one."""
    process, sigma, delta = process_of("decolor"), 0.2, 0.25
    c = process.degrade(process.to_components(SOME[:1].float().double()), 1.0)
    levels = process.degrade(process.to_components(SOME.float().double()), 1.0)

    def mixture(count):
        def log_density(u):
            parts = -0.5 * torch.cdist(u, levels[:count]).square() / delta**2
            normaliser = DIM * math.log(delta * math.sqrt(2 * math.pi)) + math.log(count)
            return torch.logsumexp(parts, dim=1) - normaliser

        return log_density

    for count in (1, 7):
        images = TrainingImages(count, lambda positions: SOME[list(positions)].float())
        terminal = build_terminal({"kind": "training_images"}, process, images)
        found = float(terminal.relative_entropy(c, sigma, delta))
        expected, error = sampled_entropy(mixture(count), process, c, sigma, delta)
        if count == 1:
            assert found == pytest.approx(expected, abs=4 * error)
        assert expected - 4 * error < found < expected + math.log(count) + 4 * error


def test_relative_entropy_does_not_depend_on_the_batch_or_on_chunks(monkeypatch):
    process, terminal = process_of(), terminal_of({"kind": "training_images"})
    c = process.to_components(0.2 * SOME)
    whole = terminal.relative_entropy(c, 0.2, 0.25)
    assert torch.equal(terminal.relative_entropy(c, 0.2, 0.25), whole)
    assert torch.equal(torch.cat([terminal.relative_entropy(row[None], 0.2, 0.25) for row in c]), whole)
    monkeypatch.setattr("pipeline.diffusion.processes.terminal.images.CHUNK_ELEMENTS", 2 * DIM)
    monkeypatch.setattr("pipeline.diffusion.processes.terminal.images.KEPT_ELEMENTS", 0)
    torch.testing.assert_close(terminal.relative_entropy(c, 0.2, 0.25), whole, rtol=0, atol=1e-9)


def test_squared_distances_are_those_of_the_differences():
    rows, points = normal(1, 5, 40), normal(2, 9, 40)
    expected = (rows[:, None] - points).square().sum(2)
    torch.testing.assert_close(squared_distances(rows, points), expected, rtol=0, atol=1e-12)
