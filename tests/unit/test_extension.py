"""Images continued column by column, against the conditional law of Gaussian columns that depend on each other."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ConfigError, parse
from pipeline.diffusion import Statistics, build_kernel, build_process, sample
from pipeline.diffusion.extension import extend, is_column_ordered, num_moving_steps, roll
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.processes import ProcessSpec
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import time_grid
from tests.diffusion_cases import Counted, affine, normal, slow

HEIGHT, WIDTH = 2, 4
SHAPE, DIM = (1, HEIGHT, WIDTH), HEIGHT * WIDTH
COLUMN = torch.arange(WIDTH).repeat(HEIGHT)
NEIGHBOURS = 0.8
"""Correlation of neighbouring columns; a column depends on those before it through the last one alone."""
MEAN = 0.1 * torch.arange(DIM).double() - 0.3
SEQUENTIAL = {"kind": "columns", "overlap_b": (WIDTH - 1) / WIDTH, "gamma_min": -12.0, "gamma_max": 16.0}
BY_LABEL = {
    "kind": "gud",
    "ordering": "column",
    "softness_a": 26.0,
    "clip": True,
    "log_snr_data": 11.0,
    "log_snr_prior": -15.0,
}


def covariance(width: int = WIDTH) -> Tensor:
    """Of images `width` wide, pixels in row-major order."""
    rows = torch.tensor([[0.5, 0.2], [0.2, 0.5]], dtype=torch.float64)
    distance = (torch.arange(width)[:, None] - torch.arange(width)).abs()
    columns = NEIGHBOURS ** distance.double()
    return torch.einsum("ij,kl->ikjl", rows, columns).reshape(HEIGHT * width, HEIGHT * width)


class Correlated:
    """The exact predictor of N(mean, covariance) under noise of every pixel by itself."""

    def __init__(self, process: Any, mean: Tensor = MEAN) -> None:
        self.process, self.mean = process, mean

    def __call__(self, u_t: Tensor, t: Any, cond: Any = None) -> Prediction:
        m = self.process.marginal(t)
        alpha, sigma = m.alpha.expand(1, DIM)[0], m.sigma.expand(1, DIM)[0]
        spread = alpha[:, None] * covariance() * alpha + torch.diag(sigma.square())
        c_t = u_t[:, 0].double()
        eps = sigma * torch.linalg.solve(spread, (c_t - alpha * self.mean).T).T
        return Prediction("eps", eps.to(u_t.dtype), u_t[:, 0], m)


def process_of(schedule: dict[str, Any], prior: str = "standard", basis: str = "pixel") -> Any:
    statistics = Statistics(mean=MEAN, variances=covariance().diagonal())
    return build_process({"kind": "spectral", "basis": basis, "prior": prior, "schedule": schedule}, SHAPE, statistics)


def keyed(seed: int, batch: int) -> Callable[[int, str, tuple[int, ...]], Tensor]:
    stream = NoiseStream(seed)
    return lambda step, name, shape: stream.normal(range(batch), step, name, shape[1:], torch.float64)


def conditional(num_known: int) -> tuple[Tensor, Tensor, Tensor]:
    """Constant, matrix and covariance of the new columns given the known ones."""
    full, known = covariance(), num_known > COLUMN
    gain = torch.linalg.solve(full[known][:, known], full[known][:, ~known]).T
    return MEAN[~known] - gain @ MEAN[known], gain, full[~known][:, ~known] - gain @ full[known][:, ~known]


def law_of_extension(schedule: dict[str, Any], kernel: str, num_known: int, num_steps: int, prior: str) -> Any:
    process = process_of(schedule, prior)

    def draw(noise: Any, x: Tensor) -> Tensor:
        predictor = Correlated(process)
        return extend(
            process, build_kernel({"kind": kernel}), predictor, x, num_known, time_grid(num_steps), noise=noise
        )

    constant, of_x, spread = affine(draw, SHAPE)
    known = num_known > COLUMN
    assert torch.equal(of_x[:, ~known], torch.zeros(DIM, int((~known).sum())).double())
    return constant[~known], of_x[~known][:, known], spread[~known][:, ~known]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("schedule", "prior", "num_known"),
    [
        (SEQUENTIAL, "standard", 3),
        slow(SEQUENTIAL, "standard", 1),
        slow(BY_LABEL, "standard", 1),
        slow(BY_LABEL, "standard", 3),
        slow(BY_LABEL, "data", 1),
        (BY_LABEL, "data", 3),
    ],
)
def test_new_columns_have_the_conditional_law_of_the_data(schedule, prior, num_known):
    found = law_of_extension(schedule, "heun", num_known, 160, prior)
    for part, expected in zip(found, conditional(num_known), strict=True):
        assert relative(part, expected) < 4e-3


@pytest.mark.slow
def test_ancestral_extension_tends_to_the_conditional_law_with_the_steps():
    errors = [
        [
            relative(part, expected)
            for part, expected in zip(
                law_of_extension(SEQUENTIAL, "ancestral", 2, num_steps, "standard"), conditional(2), strict=True
            )
        ]
        for num_steps in (80, 160)
    ]
    assert max(errors[0][:2] + errors[1][:2]) < 1e-3  # the conditional mean is right whatever the steps
    assert 0.4 < errors[1][2] / errors[0][2] < 0.65  # the covariance to first order, as of any ancestral path


def test_samples_scatter_about_the_conditional_mean_as_the_data_do():
    process, num_images = process_of(SEQUENTIAL), 4000
    x = normal(3, 1, *SHAPE).expand(num_images, *SHAPE)
    kernel = build_kernel({"kind": "heun"})
    found = extend(process, kernel, Correlated(process), x, 2, time_grid(160), noise=keyed(0, num_images)).flatten(1)
    known = COLUMN < 2
    constant, gain, spread = conditional(2)
    new = found[:, ~known]
    error = (new.mean(dim=0) - constant - gain @ x[0].flatten()[known]) / torch.sqrt(spread.diagonal() / num_images)
    assert float(error.abs().max()) < 4
    scale = spread.diagonal().sqrt()
    ratio = torch.cov(new.T) / torch.outer(scale, scale) - spread / torch.outer(scale, scale)
    assert float(ratio.abs().max()) < 4 * math.sqrt(2 / num_images) + 0.01


@pytest.mark.slow
def test_overlapping_columns_are_continued_approximately():
    gain = conditional(2)[1]
    heun, ancestral = (
        [
            relative(law_of_extension(SEQUENTIAL | {"overlap_b": b}, kernel, 2, 48, "standard")[1], gain)
            for b in (0.0, 0.3, 0.5)
        ]
        for kernel in ("heun", "ancestral")
    )
    for errors, expected in ((heun, (0.72, 0.23, 0.02)), (ancestral, (0.61, 0.10, 0.0015))):
        assert errors == pytest.approx(expected, rel=0.15)


def test_given_columns_come_back_bit_for_bit_and_the_others_are_not_read():
    process = process_of(SEQUENTIAL | {"overlap_b": 0.4})
    x = normal(1, 3, *SHAPE).float()
    other = torch.where(torch.arange(WIDTH) < 2, x, torch.nan)
    kernel, times = build_kernel({"kind": "ancestral"}), time_grid(12)
    found, again = (
        extend(process, kernel, Correlated(process), given, 2, times, noise=keyed(0, 3), final="denoise")
        for given in (x, other)
    )
    assert found.dtype == torch.float32
    assert torch.equal(found[..., :2], x[..., :2])
    assert torch.equal(found, again)
    assert bool((found[..., 2:] != x[..., 2:]).all())


def test_the_predictor_sees_given_columns_on_one_forward_path():
    process, seen = process_of(SEQUENTIAL | {"overlap_b": 0.3}), []
    oracle = Correlated(process)

    def watched(u_t: Tensor, t: Any, cond: Any = None) -> Prediction:
        m = process.marginal(t)
        seen.append(((u_t[:, 0] - m.alpha * x.flatten(1)) / m.sigma)[:, COLUMN < 2])
        return oracle(u_t, t, cond)

    x = normal(1, 3, *SHAPE)
    extend(process, build_kernel({"kind": "heun"}), watched, x, 2, time_grid(8), noise=keyed(0, 3))
    eps = keyed(0, 3)(0, "known", (3, *SHAPE)).flatten(1)[:, COLUMN < 2]
    assert len(seen) > 8
    for found in seen:
        torch.testing.assert_close(found, eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["ddim", "heun", "ancestral"])
@pytest.mark.parametrize(("num_known", "late"), [(0, 20), (1, 15), (3, 5), (4, 0)])
def test_steps_before_the_new_columns_cost_no_evaluation(kind, num_known, late):
    process, kernel = process_of(SEQUENTIAL), build_kernel({"kind": kind})
    counted = Counted(Correlated(process))
    extend(process, kernel, counted, normal(1, 2, *SHAPE), num_known, time_grid(20), noise=keyed(0, 2))
    assert num_moving_steps(process, time_grid(20), num_known) == late
    assert counted.calls == kernel.nfe(late)


def test_gaps_between_columns_cost_no_evaluation_either():
    process = process_of(BY_LABEL | {"softness_a": 52.0})  # as long between the windows as in them
    counted, times = Counted(Correlated(process)), time_grid(175)
    extend(process, build_kernel({"kind": "euler"}), counted, normal(1, 2, *SHAPE), 2, times, noise=keyed(0, 2))
    assert counted.calls == num_moving_steps(process, times, 2) == 50


def test_without_known_columns_an_extension_is_a_sample():
    process, kernel, noise = process_of(SEQUENTIAL, "data"), build_kernel({"kind": "ancestral"}), keyed(4, 3)
    found = extend(process, kernel, Correlated(process), normal(1, 3, *SHAPE), 0, time_grid(20), noise=noise)
    x_T = process.to_data(process.basis.to_components(noise(0, "x_T", (3, *SHAPE))) * process.scale)
    assert torch.equal(found, sample(process, kernel, Correlated(process), x_T, time_grid(20), noise))


def test_images_of_a_batch_are_continued_one_by_one():
    process, kernel, x = process_of(SEQUENTIAL), build_kernel({"kind": "ancestral"}), normal(1, 5, *SHAPE)
    together = extend(process, kernel, Correlated(process), x, 2, time_grid(12), noise=keyed(0, 5))
    stream = NoiseStream(0)
    alone = extend(
        process,
        kernel,
        Correlated(process),
        x[3:4],
        2,
        time_grid(12),
        noise=lambda step, name, shape: stream.normal([3], step, name, shape[1:], torch.float64),
    )
    torch.testing.assert_close(together[3:4], alone, rtol=0, atol=1e-12)


# --- panoramas


@pytest.mark.parametrize(("shift", "num_new"), [(2, 3), slow(1, 3)])
def test_a_panorama_of_markov_columns_has_their_covariance(shift, num_new):
    process = process_of(SEQUENTIAL, "data")
    stationary = Correlated(process, torch.zeros(DIM).double())

    def draw(noise: Any, x: Tensor) -> Tensor:
        # Under a root of the covariance unit x are images of the data.
        first = (x.flatten(1) @ torch.linalg.cholesky(covariance()).T).reshape(x.shape)
        return roll(
            process, build_kernel({"kind": "heun"}), stationary, first, num_new, shift, time_grid(80), noise=noise
        )

    constant, of_x, spread = affine(draw, SHAPE)
    assert float(constant.abs().max()) < 1e-12
    assert relative(of_x @ of_x.T + spread, covariance(WIDTH + num_new)) < 1.5e-2


def test_a_longer_panorama_begins_with_the_shorter_ones():
    process, kernel, x = process_of(SEQUENTIAL), build_kernel({"kind": "ddim"}), normal(1, 3, *SHAPE)
    strips = [
        roll(process, kernel, Correlated(process), x, n, 2, time_grid(12), noise=keyed(0, 3)) for n in (0, 3, 4, 7)
    ]
    assert torch.equal(strips[0], x)
    assert [strip.shape[-1] for strip in strips] == [4, 7, 8, 11]
    for shorter, longer in pairwise(strips):
        assert torch.equal(longer[..., : shorter.shape[-1]], shorter)


def test_windows_of_a_panorama_draw_their_own_noise():
    process, kernel = process_of(SEQUENTIAL), build_kernel({"kind": "ancestral"})
    asked: list[tuple[int, str]] = []

    def noise(step: int, name: str, shape: tuple[int, ...]) -> Tensor:
        asked.append((step, name))
        return keyed(0, 2)(step, name, shape)

    roll(process, kernel, Correlated(process), normal(1, 2, *SHAPE), 6, 2, time_grid(8), noise=noise)
    assert len(asked) == len(set(asked)) == 3 * (8 + 2)


# --- what can be extended


@pytest.mark.parametrize(
    ("process", "is_ordered"),
    [
        ({"schedule": SEQUENTIAL}, True),
        ({"schedule": SEQUENTIAL | {"axis": "row"}}, False),
        ({"schedule": BY_LABEL}, True),
        ({"schedule": BY_LABEL | {"clip": False}}, True),
        ({"schedule": BY_LABEL | {"softness_a": 0.0}}, False),
        ({"schedule": BY_LABEL | {"ordering": "row"}}, False),
        ({"schedule": BY_LABEL, "basis": "haar"}, False),
        ({"schedule": {"kind": "cosine"}}, False),
        ({"kind": "operator", "num_levels": 2, "degradation": {"kind": "pixelate_nearest"}}, False),
    ],
    ids=str,
)
def test_processes_that_go_column_by_column_are_known_by_their_settings(process, is_ordered):
    assert is_column_ordered(parse(ProcessSpec, {"kind": "spectral"} | process)) is is_ordered


def test_processes_of_another_order_are_refused():
    process = process_of(BY_LABEL | {"ordering": "row"})
    with pytest.raises(ConfigError, match="ordering column"):
        extend(
            process,
            build_kernel({"kind": "ddim"}),
            Correlated(process),
            normal(1, 2, *SHAPE),
            2,
            time_grid(4),
            noise=keyed(0, 2),
        )


@pytest.mark.parametrize(
    ("shape", "num_known", "message"),
    [((2, 1, 2, 5), 2, "images have shape"), ((2, *SHAPE), 5, "num_known must be"), ((2, *SHAPE), -1, "num_known")],
)
def test_images_that_do_not_fit_are_refused(shape, num_known, message):
    process, kernel = process_of(SEQUENTIAL), build_kernel({"kind": "ddim"})
    with pytest.raises(ValueError, match=message):
        extend(process, kernel, Correlated(process), normal(1, *shape), num_known, time_grid(4), noise=keyed(0, 2))


@pytest.mark.parametrize(
    ("num_new", "shift", "message"), [(3, 0, "shift"), (3, 4, "shift"), (-1, 2, "num_new_columns")]
)
def test_impossible_panoramas_are_refused(num_new, shift, message):
    process, kernel = process_of(SEQUENTIAL), build_kernel({"kind": "ddim"})
    with pytest.raises(ValueError, match=message):
        roll(
            process, kernel, Correlated(process), normal(1, 2, *SHAPE), num_new, shift, time_grid(4), noise=keyed(0, 2)
        )
