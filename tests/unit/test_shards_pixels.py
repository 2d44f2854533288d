"""Levels and the interval [-1, 1]."""

import numpy as np
import pytest
import torch

from pipeline.shards import dequantise, to_float, to_levels, to_uint8

QUANTISATIONS = (2, 3, 17, 100, 255, 256)


def levels_of(quantisation: int) -> np.ndarray:
    return np.arange(quantisation, dtype=np.uint8)


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_floats_are_bin_centres(quantisation: int) -> None:
    expected = 2 * (np.arange(quantisation) + 0.5) / quantisation - 1
    np.testing.assert_allclose(to_float(levels_of(quantisation), quantisation), expected, atol=2e-7)


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_levels_invert_bin_centres(quantisation: int) -> None:
    levels = levels_of(quantisation)
    np.testing.assert_array_equal(to_levels(to_float(levels, quantisation), quantisation), levels)


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
@pytest.mark.parametrize("u", [0.0, 2.0**-24, 0.5, 1.0 - 2.0**-24])
def test_levels_invert_dequantisation_up_to_the_bin_edges(quantisation: int, u: float) -> None:
    levels = levels_of(quantisation)
    noise = np.full(levels.shape, u, np.float32)
    np.testing.assert_array_equal(to_levels(dequantise(levels, quantisation, noise), quantisation), levels)


def test_dequantised_values_stay_in_the_data_range() -> None:
    levels = levels_of(256)
    for u in (0.0, 1.0 - 2.0**-24):
        values = dequantise(levels, 256, np.full(levels.shape, u, np.float32))
        assert values.min() >= -1.0
        assert values.max() < 1.0


def test_values_outside_the_range_are_clipped() -> None:
    np.testing.assert_array_equal(to_levels(np.array([-3.0, -1.0, 1.0, 5.0]), 17), [0, 0, 16, 16])


@pytest.mark.parametrize("quantisation", [17, 256, None])
def test_torch_and_numpy_agree_to_the_bit(quantisation: int | None) -> None:
    images = np.arange(12, dtype=np.uint8 if quantisation else np.float32)
    u = np.linspace(0, 0.99, 12, dtype=np.float32)
    tensor = torch.from_numpy(images)
    np.testing.assert_array_equal(to_float(tensor, quantisation).numpy(), to_float(images, quantisation))
    pair = dequantise(tensor, quantisation, torch.from_numpy(u)), dequantise(images, quantisation, u)
    np.testing.assert_array_equal(pair[0].numpy(), pair[1])
    np.testing.assert_array_equal(to_levels(pair[0], quantisation).numpy(), to_levels(pair[1], quantisation))


def test_points_pass_through_unchanged() -> None:
    points = np.array([[-7.5, 3.25]], np.float32)
    for result in (to_float(points, None), to_levels(points, None), dequantise(points, None, points)):
        np.testing.assert_array_equal(result, points)


@pytest.mark.parametrize("quantisation", [2, 17, 256])
def test_png_greys_reach_from_black_to_white(quantisation: int) -> None:
    greys = to_uint8(levels_of(quantisation), quantisation)
    assert greys.dtype == np.uint8
    assert (greys[0], greys[-1]) == (0, 255)
    assert (np.diff(greys.astype(int)) > 0).all()
