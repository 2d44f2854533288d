"""Degradations of whole images: levels, fades, noise, and what they refuse."""

import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.processes import OperatorProcess
from pipeline.diffusion.processes.operators import OPERATORS
from pipeline.diffusion.processes.operators.pixelate_nearest import distinct_sizes

SHAPE = (2, 12, 10)
T = 5
KINDS = [{"kind": "pixelate_nearest"}, {"kind": "reflect_blur"}, {"kind": "reflect_blur", "with_flat_end": False}]


def test_every_kind_has_a_case() -> None:
    assert {kind["kind"] for kind in KINDS} == set(OPERATORS)


def process_of(degradation: dict, shape: tuple[int, ...] = SHAPE, **more: Any) -> OperatorProcess:
    spec = {"kind": "operator", "degradation": degradation, "num_levels": T, **more}
    process = build_process(spec, shape)
    assert isinstance(process, OperatorProcess)
    return process


def images(count: int = T + 1, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.rand(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def degraded(process: OperatorProcess, x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    return process.to_data(process.degrade(process.to_components(x), t))


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> dict:
    return request.param


def test_time_zero_is_the_image_itself(kind: dict) -> None:
    assert torch.equal(degraded(process_of(kind), images(), 0.0), images())


def test_a_level_for_each_image_is_the_same_as_one_level_at_a_time(kind: dict) -> None:
    process, x = process_of(kind, fade="linear", centre="black"), images()
    t = torch.arange(T + 1, dtype=torch.float64) / T
    together = degraded(process, x, t)
    for row in range(T + 1):
        alone = degraded(process, x[row : row + 1], float(t[row]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_every_level_differs_from_its_neighbours(kind: dict, num_levels: int) -> None:
    process, x = process_of(kind, num_levels=num_levels), images(1)
    levels = [degraded(process, x, level / num_levels) for level in range(num_levels + 1)]
    for before, after in pairwise(levels):
        assert (before - after).abs().max() > 1e-4  # noise has little of the longest waves, which go last


def test_between_levels_images_change_continuously(kind: dict) -> None:
    process, x = process_of(kind), images(1)
    for t in (0.4, 0.4 + 1e-3, 0.6 - 1e-3):
        near = degraded(process, x, t)
        torch.testing.assert_close(degraded(process, x, t + 1e-3), near, rtol=0, atol=0.05)


@pytest.mark.parametrize("degradation", KINDS[:2], ids=str)
def test_the_last_level_is_one_colour(degradation: dict) -> None:
    end = degraded(process_of(degradation), images(), 1.0)
    torch.testing.assert_close(end, end[..., :1, :1].expand_as(end), rtol=0, atol=1e-14)


def test_nearest_pixelation_ends_in_the_top_left_pixel() -> None:
    end = degraded(process_of({"kind": "pixelate_nearest"}), images(), 1.0)
    assert torch.equal(end, images()[..., :1, :1].expand_as(end))


def test_a_fade_goes_to_the_centre(kind: dict) -> None:
    process, x = process_of(kind, fade="linear", centre="black"), images()
    plain = process_of(kind)
    half = degraded(process, x, 0.4)
    torch.testing.assert_close(half, -1 + 0.6 * (degraded(plain, x, 0.4) + 1), rtol=0, atol=1e-14)
    assert torch.equal(degraded(process, x, 1.0), torch.full_like(x, -1.0))


def test_noise_is_added_at_every_level_but_not_to_the_image(kind: dict) -> None:
    process, x = process_of(kind, noise=0.1), images()
    noise = torch.randn_like(x)
    assert process.sigma(torch.tensor([0.0, 0.2, 1.0])).flatten().tolist() == pytest.approx([0.0, 0.1, 0.1])
    torch.testing.assert_close(process.corrupt(x, 0.6, noise), degraded(process, x, 0.6) + 0.1 * noise)
    assert torch.equal(process.corrupt(x, 0.0, noise), x)


def test_single_precision_is_kept(kind: dict) -> None:
    process = process_of(kind, fade="cosine")
    assert process.degrade(process.to_components(images().float()), 0.4).dtype == torch.float32


def test_degrading_is_differentiable_in_the_image(kind: dict) -> None:
    process, x = process_of(kind), images(2).requires_grad_()
    degraded(process, x, 0.4).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(float(x.numel()), dtype=torch.float64))


def test_components_are_pixels_about_the_centre() -> None:
    statistics = Statistics(torch.full((240,), 0.3), torch.full((240,), 0.2))
    spec = {"kind": "operator", "degradation": {"kind": "reflect_blur"}, "num_levels": T, "centre": "black"}
    process = build_process(spec, SHAPE, statistics)
    assert process.dim == 240
    assert process.variances is not None
    torch.testing.assert_close(process.mean_components, torch.full((240,), 1.3, dtype=torch.float64))
    torch.testing.assert_close(process.to_components(images())[0], images()[0].reshape(-1) + 1)
    torch.testing.assert_close(process.to_data(process.to_components(images())), images())


def test_centre_mean_needs_statistics() -> None:
    with pytest.raises(ConfigError, match="centre mean needs data statistics"):
        process_of(KINDS[0], centre="mean")


def test_process_survives_pickling(kind: dict) -> None:
    process = process_of(kind)
    copy = pickle.loads(pickle.dumps(process))
    assert torch.equal(degraded(copy, images(), 0.6), degraded(process, images(), 0.6))


def test_distinct_block_sizes_rise_to_one_block() -> None:
    for side in range(2, 70):
        for num_levels in range(1, side // 2 + 1):
            sizes = distinct_sizes(side, num_levels)
            assert len(sizes) == num_levels
            assert sizes[-1] == side // 2 + 1
            assert min(sizes) >= 2
            assert list(sizes) == sorted(set(sizes))


@pytest.mark.parametrize(
    ("degradation", "shape", "message"),
    [
        ({"kind": "pixelate_nearest"}, (1, 8, 8), "has 4 levels that differ on 8 pixels, found num_levels 5"),
        ({"kind": "pixelate_nearest"}, (64,), "needs images"),
        ({"kind": "pixelate_nearest", "levels": "vcd"}, (1, 10, 10), "needs more than 10 pixels a side, found 10"),
        ({"kind": "reflect_blur", "kernel_size": 27}, (3, 13, 13), "needs sides of more than 13 pixels, found 13 x 13"),
        ({"kind": "reflect_blur", "kernel_size": 4}, SHAPE, "kernel_size must be odd, found 4"),
        ({"kind": "reflect_blur", "growth": 0.1}, SHAPE, "growth needs kernel_std"),
        ({"kind": "reflect_blur"}, (64,), "needs images"),
    ],
)
def test_what_does_not_fit_is_refused(degradation: dict, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        process_of(degradation, shape)


def test_published_levels_that_repeat_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="repeats block size 1 with num_levels 10 on 16 pixels: a level that does nothing"
    ):
        process_of({"kind": "pixelate_nearest", "levels": "vcd"}, (1, 16, 16), num_levels=10)


def test_more_published_levels_than_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="allows 12 levels on 12 pixels, found 13"):
        process_of({"kind": "pixelate_nearest", "levels": "vcd"}, (1, 12, 12), num_levels=13)


def test_a_kernel_just_smaller_than_the_image_is_allowed() -> None:
    process = process_of({"kind": "reflect_blur", "kernel_size": 27}, (1, 14, 14))
    assert degraded(process, images(1, (1, 14, 14)), 0.4).isfinite().all()
