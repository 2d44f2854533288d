"""The denoising objective against closed forms, and the classification objective."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ConfigError, parse, union
from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.objectives import OBJECTIVES, Batch, DenoisingSpec, Draws, Phase
from pipeline.diffusion.objectives.classification import ClassificationSpec, shifted
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Precondition
from pipeline.diffusion.randomness import NoiseStream
from pipeline.networks import ClassifierSpec, MlpSpec

VARIANCES = torch.tensor([2.0, 0.5, 0.1, 0.02], dtype=torch.float64)
STATISTICS = Statistics(mean=torch.zeros(4, dtype=torch.float64), variances=VARIANCES, components=None)
LOG_LINEAR = {"kind": "log_linear", "gamma_min": -6.0, "gamma_max": 5.0}
GUD = {"kind": "gud", "softness_a": 1.5, "ordering": "variance"}
TARGETS = ("eps", "x0", "v", "score")


def precondition(
    prediction: Any = "eps", schedule: dict[str, Any] = LOG_LINEAR, *, prior: str = "standard"
) -> Precondition:
    spec = {"kind": "spectral", "basis": "pixel", "centre": "grey", "prior": prior, "schedule": schedule}
    return Precondition(build_process(spec, shape=(4,), statistics=STATISTICS), prediction)


def gaussian_batch(size: int, *, step: int = 0, seed: int = 0) -> tuple[Batch, Draws]:
    draws = Draws(NoiseStream(seed), step, range(size), size)
    x_0 = draws.normal("data", (4,)) * VARIANCES.sqrt().float()
    return Batch(x_0, None, range(size), size), draws


def losses_at_start(spec: DenoisingSpec, given: Precondition, size: int = 8000) -> Tensor:
    """Loss per example of the network whose output is zero, on Gaussian data."""
    (phase,) = spec.build(given).phases(0)
    inputs = phase.inputs(*gaussian_batch(size))
    return phase.loss(inputs, torch.zeros(size, 4))[0].double()


def expected_eps_error(given: Precondition) -> float:
    """Mean over t and components of E|eps - eps_hat|^2 = sigmoid(log Sigma - gamma), eps_hat the exact predictor."""
    times = torch.linspace(0, 1, 4001, dtype=torch.float64)
    error = torch.sigmoid(given.process.marginal(times).log_snr).expand(len(times), 4)
    return torch.trapezoid(error.mean(1), times).item()


def assert_mean(values: Tensor, expected: float) -> None:
    """Within four standard errors (times are stratified, so the error is smaller than this)."""
    assert values.mean().item() == pytest.approx(expected, abs=4 * values.std().item() / math.sqrt(len(values)))


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("schedule", [LOG_LINEAR, GUD], ids=lambda s: s["kind"])
def test_eps_loss_of_an_untrained_network_is_the_gaussian_optimum(schedule: dict[str, Any], prior: str) -> None:
    given = precondition(schedule=schedule, prior=prior)
    assert_mean(losses_at_start(DenoisingSpec(), given), expected_eps_error(given))


@pytest.mark.parametrize("target", TARGETS)
def test_likelihood_weighting_gives_the_diffusion_loss_in_nats_for_every_prediction(target: str) -> None:
    spec = DenoisingSpec(weighting="likelihood")
    losses = losses_at_start(spec, precondition(target, GUD))
    first, last = (precondition("eps", GUD).process.marginal(t).log_snr for t in (0.0, 1.0))
    closed_form = 0.5 * (torch.nn.functional.softplus(first) - torch.nn.functional.softplus(last)).mean()
    assert_mean(losses, closed_form.item())


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("target", TARGETS)
def test_eps_metric_and_weighted_losses_do_not_depend_on_the_prediction(target: str, prior: str) -> None:
    results = {}
    for name in ("eps", target):
        for weighting in ("likelihood", "snr_truncated"):
            given = precondition(name, GUD, prior=prior)
            (phase,) = DenoisingSpec(weighting=weighting).build(given).phases(0)
            losses, metrics = phase.loss(phase.inputs(*gaussian_batch(64)), torch.zeros(64, 4))
            results[name, weighting] = torch.stack([losses, metrics["eps_mse"]])
    for weighting in ("likelihood", "snr_truncated"):
        torch.testing.assert_close(results[target, weighting], results["eps", weighting], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_uniform_loss_is_the_squared_error_of_the_predicted_quantity(target: str) -> None:
    given = precondition(target, GUD, prior="data")
    (phase,) = DenoisingSpec().build(given).phases(0)
    batch, draws = gaussian_batch(16)
    inputs: Any = phase.inputs(batch, draws)
    truth = Prediction("eps", inputs.eps.double(), inputs.u_t[:, 0].double(), inputs.marginal)
    guess = given.prediction(inputs.u_t, inputs.t, torch.ones(16, 4))
    expected = (getattr(truth, {"x0": "x_0"}.get(target, target)) - guess.value).square().mean(1)
    torch.testing.assert_close(phase.loss(inputs, torch.ones(16, 4))[0].double(), expected, rtol=2e-3, atol=1e-4)


def test_truncated_weighting_is_the_larger_of_both_errors() -> None:
    given = precondition("eps")
    (phase,) = DenoisingSpec(weighting="snr_truncated").build(given).phases(0)
    inputs: Any = phase.inputs(*gaussian_batch(32))
    losses, metrics = phase.loss(inputs, torch.zeros(32, 4))
    snr = torch.exp(-inputs.marginal.gamma[:, 0])
    torch.testing.assert_close(losses.double(), metrics["eps_mse"].double() * torch.clamp(1 / snr, min=1.0))


def test_huber_is_squared_near_zero_and_linear_far_away() -> None:
    given = precondition("eps")
    objective = DenoisingSpec(loss="huber", huber_delta=0.5).build(given)
    penalty = objective._penalty(torch.tensor([0.1, -3.0]))
    torch.testing.assert_close(penalty, torch.tensor([0.5 * 0.01, 0.5 * (3.0 - 0.25)]))


def test_l1_is_the_mean_absolute_error() -> None:
    (phase,) = DenoisingSpec(loss="l1").build(precondition("eps")).phases(0)
    inputs: Any = phase.inputs(*gaussian_batch(8))
    guess = precondition("eps").prediction(inputs.u_t, inputs.t, torch.zeros(8, 4)).value
    torch.testing.assert_close(phase.loss(inputs, torch.zeros(8, 4))[0], (guess - inputs.eps).abs().mean(1))


def test_likelihood_weighting_with_another_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="mse only"):
        parse(union(OBJECTIVES), {"kind": "denoising", "loss": "l1", "weighting": "likelihood"})


def test_denoising_without_a_process_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a process"):
        DenoisingSpec().build(None)


def test_times_avoid_the_noise_free_end_only_where_gamma_is_infinite() -> None:
    cosine = DenoisingSpec(t_min=0.01).build(precondition(schedule={"kind": "cosine"}))
    finite = DenoisingSpec(t_min=0.01).build(precondition())
    batch, draws = gaussian_batch(1000)
    assert cosine.inputs(batch, draws).t.min().item() >= 0.01
    assert finite.inputs(batch, draws).t.min().item() < 0.001


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", ["uniform", "likelihood", "snr_truncated"])
def test_losses_are_finite_near_a_noise_free_end(target: str, weighting: Any) -> None:
    given = precondition(target, {"kind": "cosine"})
    losses = losses_at_start(DenoisingSpec(weighting=weighting), given, size=2000)
    assert losses.shape == (2000,)
    assert torch.isfinite(losses).all()


def test_times_are_stratified_over_the_global_batch() -> None:
    parts = [Draws(NoiseStream(1), 4, positions, 8).times("t") for positions in (range(4), range(4, 8))]
    times = torch.cat(parts).sort().values
    torch.testing.assert_close(times.diff(), torch.full((7,), 1 / 8, dtype=torch.float64))
    other_step = Draws(NoiseStream(1), 5, range(8), 8).times("t").sort().values
    assert not torch.allclose(times, other_step)


def test_label_dropout_hides_the_asked_share_of_labels() -> None:
    objective = DenoisingSpec(label_dropout=0.25).build(precondition())
    batch, draws = gaussian_batch(4000)
    cond = objective.inputs(
        Batch(batch.x_0, torch.ones(4000, dtype=torch.int64), range(4000), 4000), draws
    ).network.cond
    assert cond is not None
    assert (cond.label == -1).float().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def train(phase: Phase, network: torch.nn.Module, batches: Any, *, steps: int, lr: float) -> list[float]:
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    history = []
    for step in range(steps):
        inputs = phase.inputs(*batches(step))
        call = inputs.network
        loss = phase.loss(inputs, network(call.x, call.t, call.gamma, call.cond))[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    return history


def test_sixty_steps_on_a_mixture_of_points_lower_the_loss() -> None:
    statistics = Statistics(
        mean=torch.zeros(2, dtype=torch.float64), variances=torch.full((2,), 0.5, dtype=torch.float64), components=None
    )
    spec = {"kind": "spectral", "basis": "pixel", "schedule": LOG_LINEAR}
    given = Precondition(build_process(spec, shape=(2,), statistics=statistics), "eps")
    (phase,) = DenoisingSpec().build(given).phases(0)

    def points(step: int) -> tuple[Batch, Draws]:
        draws = Draws(NoiseStream(0), step, range(256), 256)
        corner = draws.uniform("corner", (2,)).round() * 1.4 - 0.7
        return Batch(corner + 0.05 * draws.normal("data", (2,)), None, range(256), 256), draws

    history = train(phase, MlpSpec(width=64, depth=2).build((2,)), points, steps=60, lr=3e-3)
    assert sum(history[-10:]) < 0.9 * sum(history[:10])


def test_classification_learns_which_half_is_bright() -> None:
    (phase,) = ClassificationSpec().build().phases(0)

    def images(step: int) -> tuple[Batch, Draws]:
        draws = Draws(NoiseStream(0), step, range(64), 64)
        label = (draws.uniform("label", ()) < 0.5).long()
        x = torch.full((64, 1, 8, 8), -1.0)
        x[label == 1, :, :4] = 1.0
        x[label == 0, :, 4:] = 1.0
        return Batch(x, label, range(64), 64), draws

    network = ClassifierSpec(width=8).build((1, 8, 8), 2)
    train(phase, network, images, steps=30, lr=3e-3)
    inputs = phase.inputs(*images(99))
    _, metrics = phase.loss(inputs, network(inputs.network.x))
    assert metrics["accuracy"].mean().item() == 1.0


def test_shift_moves_every_image_by_its_own_pixels_and_repeats_edges() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(2, 2, 1, 1)
    moved = shifted(x, torch.tensor([1, 0]), torch.tensor([0, -1]))
    assert torch.equal(moved[0, 1], torch.tensor([[0.0, 1, 2], [0, 1, 2], [3, 4, 5]]))
    assert torch.equal(moved[1, 0], torch.tensor([[1.0, 2, 2], [4, 5, 5], [7, 8, 8]]))


def test_classification_of_data_without_labels_is_refused() -> None:
    (phase,) = ClassificationSpec().build().phases(0)
    with pytest.raises(ValueError, match="labels"):
        phase.inputs(*gaussian_batch(4))
