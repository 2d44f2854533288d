"""Mathematics of studies against closed forms: a linear model in which the effect of the code of each step is known."""

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion import build_process, latents
from pipeline.diffusion.bases.dct import DctBasis
from pipeline.diffusion.kernels.previous import Previous
from pipeline.diffusion.objectives.base import Batch, Draws
from pipeline.diffusion.objectives.variational_cold import VariationalColdSpec
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition, Precondition
from pipeline.diffusion.processes import SpectralProcess
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import time_grid
from pipeline.sample.study_measures import distances, frequency_centroid, mean_of, trend
from pipeline.sample.study_paths import Conditions, Encoding, Walk, exchange_images

SHAPE = (1, 8, 8)
NUM_LEVELS = 4
DECAY = 0.5
COMPONENTS = (1, 8 * 2, 3, 8 * 5 + 5)
"""The DCT component that the code of each step moves."""


def process(**schedule: object) -> SpectralProcess:
    settings = {"kind": "heat", "num_levels": NUM_LEVELS} | schedule
    built = build_process({"kind": "spectral", "basis": "dct", "schedule": settings}, SHAPE)
    assert isinstance(built, SpectralProcess)
    return built


def linear_model(u_t: Tensor, t: Tensor, cond: Condition | None) -> Prediction:
    """c_s = decay c_t + z e_k, with another component k at every step."""
    assert cond is not None
    assert cond.latent is not None
    step = NUM_LEVELS - round(float(t) * NUM_LEVELS)
    c_t = u_t[:, 0]
    value = DECAY * c_t
    value[:, COMPONENTS[step]] += cond.latent[:, 0].to(value)
    return Prediction("x_prev", value, c_t, process().marginal(t), process().marginal(t))


def no_noise(step: int, name: str, shape: tuple[int, ...]) -> Tensor:
    raise AssertionError(f"nothing was to be drawn, {name} was")


def walk(predictor: Callable[..., Prediction] = linear_model) -> Walk:
    return Walk(process(), Previous(), predictor, time_grid(NUM_LEVELS), no_noise)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def between(z_source: Tensor, z_target: Tensor) -> Callable[[Collection[int]], Conditions]:
    return lambda steps: latents.exchange(z_source, z_target, steps)


def test_a_code_exchanged_at_one_step_moves_its_component_by_what_the_later_steps_leave() -> None:
    z_source, z_target, x_T = normal(5, 1, seed=1), normal(5, 1, seed=2), normal(5, *SHAPE)
    chosen = [(step,) for step in range(NUM_LEVELS)]
    found = exchange_images(walk(), x_T, between(z_source, z_target), chosen)
    left = DECAY ** np.arange(NUM_LEVELS - 1, -1, -1)
    expected = left[:, None] * (z_source - z_target).abs()[:, 0].numpy()
    np.testing.assert_allclose(distances(found.exchanged, found.target), expected, rtol=1e-10)
    frequencies = DctBasis(SHAPE).frequency[list(COMPONENTS)].numpy()
    centroid = frequency_centroid(found.exchanged - found.target)
    np.testing.assert_allclose(centroid, np.broadcast_to(frequencies[:, None], (NUM_LEVELS, 5)), rtol=1e-10)


def test_source_and_target_start_alike_and_lie_as_far_apart_as_all_steps_together() -> None:
    z_source, z_target, x_T = normal(5, 1, seed=1), normal(5, 1, seed=2), normal(5, *SHAPE)
    found = exchange_images(walk(), x_T, between(z_source, z_target), [range(NUM_LEVELS), ()])
    left = np.linalg.norm(DECAY ** np.arange(NUM_LEVELS))
    expected = left * (z_source - z_target).abs()[:, 0].numpy()
    np.testing.assert_allclose(distances(found.source, found.target), expected, rtol=1e-10)
    torch.testing.assert_close(found.exchanged[0], found.source)
    torch.testing.assert_close(found.exchanged[1], found.target)


def test_windows_are_half_open_and_those_of_a_partition_add_up() -> None:
    z_source, z_target, x_T = normal(3, 1, seed=1), normal(3, 1, seed=2), normal(3, *SHAPE)
    windows = [latents.window(0, 1), latents.window(1, 4)]
    found = exchange_images(walk(), x_T, between(z_source, z_target), windows)
    moved = (found.exchanged - found.target).sum(0)
    torch.testing.assert_close(moved, found.source - found.target)
    single = exchange_images(walk(), x_T, between(z_source, z_target), [(0,)])
    torch.testing.assert_close(found.exchanged[0], single.exchanged[0])


def test_a_path_begins_at_x_T_and_ends_at_the_image() -> None:
    conditions = latents.exchange(normal(2, 1), normal(2, 1), ())
    path = walk().path(normal(2, *SHAPE), conditions)
    assert path.shape == (NUM_LEVELS + 1, 2, *SHAPE)
    torch.testing.assert_close(path[0], normal(2, *SHAPE))
    torch.testing.assert_close(path[-1], walk().image(normal(2, *SHAPE), conditions))


def test_a_final_denoising_is_one_more_picture_of_a_path() -> None:
    def denoiser(u_t: Tensor, t: Tensor, cond: Condition | None) -> Prediction:
        prediction = linear_model(u_t, t if t > 0 else torch.tensor(1.0), cond)
        return Prediction("x0", torch.full_like(prediction.value, 0.25), u_t[:, 0], prediction.marginal)

    class Still(Previous):
        def step(self, u_t: Tensor, *others: object, **more: object) -> tuple[Tensor, None]:
            return u_t, None

    x_T = normal(2, *SHAPE)
    path = Walk(process(), Still(), denoiser, time_grid(NUM_LEVELS), no_noise, "denoise").path(
        x_T, latents.exchange(normal(2, 1), normal(2, 1), ())
    )
    assert len(path) == NUM_LEVELS + 2
    torch.testing.assert_close(path[-2], x_T)
    torch.testing.assert_close(process().to_components(path[-1]), torch.full((2, 64), 0.25, dtype=torch.float64))


def test_the_centroid_weighs_frequencies_by_power_over_all_channels() -> None:
    basis = DctBasis((3, 4, 4))
    c = torch.zeros(2, 48, dtype=torch.float64)
    c[0, 3], c[0, 16 + 4] = 1.0, 2.0  # |k| = 3 with power 1 in one channel, |k| = 1 with power 4 in another
    centroid = frequency_centroid(basis.to_data(c))
    assert centroid[0] == pytest.approx((3 * 1 + 1 * 4) / 5)
    assert np.isnan(centroid[1])
    assert frequency_centroid(torch.full((1, 3, 4, 4), 0.7)) == pytest.approx(0.0, abs=1e-6)


def test_distances_are_over_all_channels_and_pixels() -> None:
    images = torch.zeros(2, 5, 3, 4, 4)
    images[1] = 0.5
    np.testing.assert_allclose(distances(images, torch.zeros(5, 3, 4, 4)), np.repeat([[0.0], [np.sqrt(12)]], 5, 1))


def test_a_mean_leaves_out_what_is_not_known() -> None:
    found = mean_of(np.array([1.0, 3.0, np.nan]))
    assert found.to_json() == {"mean": 2.0, "se": pytest.approx(1.0), "count": 2}
    assert mean_of(np.array([np.nan])).to_json() == {"mean": None, "se": None, "count": 0}
    assert mean_of(np.array([4.0])).to_json() == {"mean": 4.0, "se": None, "count": 1}


@pytest.mark.parametrize(("slope", "verdict"), [(0.3, "rises"), (-0.3, "falls"), (0.0, "undecided")])
def test_a_trend_finds_the_slope_that_is_there_and_no_other(slope: float, verdict: str) -> None:
    noise = normal(6, 200).numpy()
    noise -= noise.mean(axis=1, keepdims=True)  # so that no slope is there by chance
    found = trend(slope * np.arange(6)[:, None] + noise)
    assert found.slope == pytest.approx(slope, abs=1e-12)
    assert found.verdict == verdict
    if slope:
        assert found.spearman == pytest.approx(np.sign(slope))
        assert found.slope_se == pytest.approx(np.sqrt(1 / 17.5 / 200), rel=0.2)


def test_a_trend_says_when_it_cannot_be_known() -> None:
    nothing = trend(np.full((4, 3), np.nan))
    assert (nothing.slope, nothing.spearman, nothing.verdict) == (None, None, "undecided")
    alone = trend(np.arange(4.0)[:, None])
    assert (alone.slope, alone.slope_se, alone.verdict) == (1.0, None, "undecided")
    flat = trend(np.ones((4, 3)))
    assert (flat.spearman, flat.verdict) == (None, "undecided")
    assert trend(np.ones((1, 3))).slope is None


def test_the_encoder_sees_the_present_state_and_the_true_earlier_level() -> None:
    forward, x_0 = process(), normal(3, *SHAPE)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    codes: list[Tensor] = []

    def encoder(pair: Tensor, t: Tensor, time_to: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((pair, t, time_to))
        return torch.full((len(pair), 1), 2.0), torch.full((len(pair), 1), 2 * np.log(3.0))

    def model(u_t: Tensor, t: Tensor, cond: Condition | None) -> Prediction:
        assert cond is not None
        assert cond.latent is not None
        codes.append(cond.latent)
        return linear_model(u_t, t, cond)

    def noise(step: int, name: str, shape: tuple[int, ...]) -> Tensor:
        assert name == "latent"
        return torch.full(shape, float(step))

    encoding = Encoding(model, encoder, lambda u, t: forward.to_data(u[:, 0]), forward, x_0, noise, walk().times)
    path = replace(walk(), predictor=encoding).path(normal(3, *SHAPE, seed=9))
    for step, (pair, t, time_to) in enumerate(seen):
        later = (NUM_LEVELS - step - 1) / NUM_LEVELS
        assert t.tolist() == [(NUM_LEVELS - step) / NUM_LEVELS] * 3
        assert time_to.tolist() == [later] * 3
        truth = forward.to_data(forward.degrade(forward.to_components(x_0), later))
        torch.testing.assert_close(pair, torch.cat([path[step], truth], dim=1), check_dtype=False)
    assert [code[0, 0].item() for code in codes] == pytest.approx([2.0 + 3.0 * step for step in range(NUM_LEVELS)])


def test_the_encoder_is_shown_what_it_was_trained_on() -> None:
    """The same state and image through the objective and through a study give the encoder the same arguments."""
    forward = process()
    precondition = Precondition(forward, "x_prev")
    seen: list[tuple[Tensor, ...]] = []

    class Recorder(torch.nn.Module):
        def forward(self, pair: Tensor, t: Tensor, time_to: Tensor) -> tuple[Tensor, Tensor]:
            seen.append((pair, t, time_to))
            return torch.zeros(len(pair), 1), torch.zeros(len(pair), 1)

    recorder = Recorder()
    objective = VariationalColdSpec(latent_dim=1).build(precondition)
    objective.bind({"network": torch.nn.Identity(), "encoder": recorder}, lambda name: {})
    batch = Batch(normal(1, *SHAPE).float(), None, [0], 1)
    objective.phases(0)[0].inputs(batch, Draws(NoiseStream(3), 0, [0], 1))
    t = seen[0][1].double()
    x_0 = batch.x_0
    u_t = forward.degrade(forward.to_components(x_0), t)[:, None]
    encoding = Encoding(
        lambda u, t, cond: linear_model(u, torch.tensor(1.0), cond),
        recorder,
        lambda u, t: precondition.inputs(u, t).x,
        forward,
        x_0,
        lambda step, name, shape: torch.zeros(shape),
        time_grid(NUM_LEVELS),
    )
    encoding(u_t, t[0], None)
    for trained, studied in zip(*seen, strict=True):
        torch.testing.assert_close(studied, trained)
