"""Contact sheets: geometry and deterministic bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report.sheets import cell_sheet, comparison_sheet
from pipeline.shards.sheets import GAP, contact_sheet, scatter_sheet

RNG = np.random.default_rng(0)
DIGITS = RNG.integers(0, 17, size=(120, 1, 8, 8), dtype=np.uint8)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_sheet_is_ten_by_ten_enlarged_by_whole_factors() -> None:
    picture = opened(cell_sheet(DIGITS, 17))
    assert picture.shape == (10 * (48 + GAP) + GAP,) * 2
    tile = picture[GAP : GAP + 48, GAP : GAP + 48]
    np.testing.assert_array_equal(tile[::6, ::6], np.round(DIGITS[0, 0] * (255 / 16)).astype(np.uint8))
    np.testing.assert_array_equal(tile[::6], tile[5::6])


def test_images_are_laid_out_in_reading_order() -> None:
    levels = np.zeros((12, 1, 8, 8), np.uint8)
    levels[11] = 255
    picture = opened(cell_sheet(levels, 256))
    start = GAP + 48 + GAP
    assert picture[start : start + 48, start : start + 48].min() == 255
    assert (picture == 255).sum() == 48 * 48


def test_equal_pixels_give_equal_bytes() -> None:
    assert cell_sheet(DIGITS, 17) == cell_sheet(DIGITS.copy(), 17)


def test_colour_images_keep_their_channels() -> None:
    images = RNG.integers(0, 256, size=(4, 3, 32, 32), dtype=np.uint8)
    picture = opened(cell_sheet(images, 256))
    np.testing.assert_array_equal(picture[GAP : GAP + 64 : 2, GAP : GAP + 64 : 2], images[0].transpose(1, 2, 0))


def test_cells_stand_below_each_other() -> None:
    picture = opened(comparison_sheet([DIGITS[:10], DIGITS[10:13]], 17))
    assert picture.shape == (2 * (48 + GAP) + GAP, 10 * (48 + GAP) + GAP)
    missing = GAP + 3 * (48 + GAP)
    assert picture[GAP + 48 + GAP : -GAP, missing : missing + 48].max() == 0


def test_points_are_drawn_with_y_upwards() -> None:
    canvas = scatter_sheet(np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]], np.float32), size=4, limit=2.0)
    assert canvas[0, 3, 0] == 255
    assert 0 < canvas[2, 1, 0] < 255 or 0 < canvas[3, 0, 0] < 255 or 0 < canvas[2, 0, 0] < 255
    assert (canvas > 0).sum() == 2


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (4, 2, 8, 8), (4, 8, 8)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sheet needs"):
        contact_sheet(np.zeros(shape, np.uint8))
