"""Resizing to the input of a feature net: exact formulas, what each rule does and does not do, and refusals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.evaluate.nets.resize import clean_resize, tf1_resize, to_rgb_levels, torch_resize
from pipeline.shards import to_float

RULES = {"tf1": tf1_resize, "clean": clean_resize, "torch": torch_resize}


def noise(height: int, width: int, *, n: int = 2) -> Tensor:
    rng = np.random.default_rng(height + 1000 * width)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, height, width), np.uint8))


def ramp(width: int, *, slope: int) -> Tensor:
    return (slope * torch.arange(width, dtype=torch.uint8)).expand(1, 3, width, width)


def directly(image: np.ndarray) -> np.ndarray:
    """TensorFlow 1's formula pixel by pixel, along x first, in float32."""

    def along(values: np.ndarray, axis: int) -> np.ndarray:
        n = values.shape[axis]
        position = np.arange(299, dtype=np.float32) * np.float32(n / 299)
        low = position.astype(np.int64)
        share = (position - low.astype(np.float32)).reshape((-1, 1) if axis == 0 else (1, -1))
        a, b = values.take(low, axis), values.take(np.minimum(low + 1, n - 1), axis)
        return a + (b - a) * share

    return along(along(image.astype(np.float32), 1), 0)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 32), (1, 5), (64, 48), (320, 310), (299, 600)])
def test_the_tensorflow_rule_equals_its_pixelwise_formula(height: int, width: int) -> None:
    image = noise(height, width, n=1)
    np.testing.assert_allclose(tf1_resize(image)[0, 1], directly(image[0, 1].numpy()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_an_image_of_the_final_size_stays_as_it_is(rule: str) -> None:
    image = noise(299, 299, n=1)
    torch.testing.assert_close(RULES[rule](image), image.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_flat_image_stays_flat(rule: str, level: int) -> None:
    flat = torch.full((1, 3, 20, 33), level, dtype=torch.uint8)
    torch.testing.assert_close(RULES[rule](flat), torch.full((1, 3, 299, 299), float(level)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_images_do_not_influence_each_other(rule: str) -> None:
    images = noise(32, 32, n=5)
    together = RULES[rule](images)
    assert all(torch.equal(together[i : i + 1], RULES[rule](images[i : i + 1])) for i in range(5))


@pytest.mark.parametrize("rule", RULES)
def test_values_stay_within_the_range_of_levels(rule: str) -> None:
    resized = RULES[rule](noise(24, 24))
    assert float(resized.min()) >= 0.0
    assert float(resized.max()) <= 255.0


def test_the_tensorflow_rule_reads_a_ramp_from_the_corner_and_torch_from_pixel_centres() -> None:
    image, i = ramp(32, slope=8), torch.arange(20, 270)
    corner, centre = i * 32 / 299, (i + 0.5) * 32 / 299 - 0.5
    torch.testing.assert_close(tf1_resize(image)[0, 0, 100, 20:270], 8 * corner, rtol=0, atol=1e-3)
    torch.testing.assert_close(torch_resize(image)[0, 0, 100, 20:270], 8 * centre, rtol=0, atol=1e-3)


def test_the_clean_rule_alone_averages_what_shrinks() -> None:
    stripes = (255 * (torch.arange(598) % 2)).to(torch.uint8).expand(1, 3, 598, 598)
    inside = {name: rule(stripes)[0, 0, 10:-10, 10:-10] for name, rule in RULES.items()}
    torch.testing.assert_close(inside["clean"], torch.full_like(inside["clean"], 127.5), rtol=0, atol=1.0)
    assert float(inside["tf1"].max()) == 0.0  # it reads every other column, each of them black


def test_levels_are_the_exact_inverse_of_bin_centres() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_rgb_levels(to_float(levels, 256)), levels)


def test_levels_round_to_the_nearest_and_clip() -> None:
    x = torch.tensor([-1.5, -1.0, -1.0 + 0.9 / 255, -1.0 + 1.1 / 255, 0.0, 1.0, 1.5]).reshape(1, 1, 1, -1)
    assert to_rgb_levels(x)[0, 0, 0].tolist() == [0, 0, 0, 1, 128, 255, 255]


def test_a_grey_image_becomes_three_equal_channels() -> None:
    x = to_float(noise(8, 8)[:, :1], 256)
    levels = to_rgb_levels(x)
    assert levels.shape == (2, 3, 8, 8)
    assert torch.equal(levels[:, 0], levels[:, 2])


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 5), r"shape \(2, 5\)"),
        (torch.zeros(2, 4, 8, 8), r"shape \(2, 4, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "type torch.uint8"),
        (torch.full((2, 3, 8, 8), torch.nan), "up to nan"),
        (torch.full((2, 3, 8, 8), -torch.inf), "up to inf"),
        (torch.full((2, 3, 8, 8), 255.0), r"up to 255; .*\[-1, 1\]"),
    ],
)
def test_what_is_no_image_in_the_data_range_is_refused(x: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        to_rgb_levels(x)
