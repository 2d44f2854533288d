"""Labels and layout of the bases."""

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion.bases import build_basis


def test_haar_keeps_the_scaled_mean_of_a_block_top_left() -> None:
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    assert build_basis("haar", (1, 4, 4)).to_components(x)[0, 0] == x.mean() * 4


def test_haar_of_odd_sides_is_the_identity() -> None:
    x = torch.randn(2, 1, 5, 8)
    basis = build_basis("haar", (1, 5, 8))
    assert torch.equal(basis.to_components(x), x.reshape(2, -1))


def test_haar_levels_follow_the_powers_of_two() -> None:
    level = build_basis("haar", (1, 28, 28)).level
    assert level is not None
    assert [int((level == j).sum()) for j in range(3)] == [49, 147, 588]


def test_haar_labels_repeat_per_channel() -> None:
    basis, single = build_basis("haar", (3, 8, 8)), build_basis("haar", (1, 8, 8))
    for name in ("level", "column", "row"):
        assert torch.equal(getattr(basis, name), getattr(single, name).repeat(3))


def test_haar_rows_are_columns_of_the_transposed_image() -> None:
    basis = build_basis("haar", (1, 8, 8))
    assert basis.column is not None
    assert torch.equal(basis.row, basis.column.reshape(8, 8).T.reshape(-1))


def test_haar_vector_is_packed_from_coarse_to_fine() -> None:
    basis = build_basis("haar", (8,))
    assert basis.level is not None
    assert basis.level.tolist() == [0, 1, 2, 2, 3, 3, 3, 3]
    constant = basis.to_components(torch.ones(1, 8, dtype=torch.float64))
    torch.testing.assert_close(constant[0, 1:], torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-15)


def test_fourier_puts_a_cosine_at_its_frequency() -> None:
    basis = build_basis("fourier", (8,))
    x = torch.cos(2 * torch.pi * 3 * torch.arange(8, dtype=torch.float64) / 8)
    expected = torch.zeros(1, 8, dtype=torch.float64)
    expected[0, 3] = 2.0
    torch.testing.assert_close(basis.to_components(x[None]), expected, rtol=0, atol=1e-14)


def test_fourier_frequency_is_the_same_for_both_of_a_pair() -> None:
    frequency = build_basis("fourier", (1, 4, 6)).frequency
    assert frequency is not None
    grid = frequency.reshape(4, 6)
    assert torch.equal(grid, grid.flip(0, 1).roll((1, 1), (0, 1)))


def test_pixel_labels_are_image_coordinates() -> None:
    basis = build_basis("pixel", (2, 3, 4))
    assert basis.column is not None
    assert basis.column.reshape(2, 3, 4)[1, 2].tolist() == [0, 1, 2, 3]
    assert basis.row.reshape(2, 3, 4)[1, :, 2].tolist() == [0, 1, 2]
    assert basis.frequency is None


def test_vectors_are_ordered_by_their_index() -> None:
    for name in ("pixel", "dct"):
        assert build_basis(name, (5,)).frequency.tolist() == [0, 1, 2, 3, 4]


def test_unknown_basis_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean haar"):
        build_basis("harr", (1, 4, 4))


def test_pca_without_statistics_is_refused() -> None:
    with pytest.raises(ConfigError, match="pca needs data statistics"):
        build_basis("pca", (4,))


def test_two_dimensional_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(C, H, W\) or \(D,\)"):
        build_basis("dct", (4, 4))


def test_haar_dct_starts_with_the_scaled_mean_and_labels_it_alone() -> None:
    x = torch.rand(2, 3, 28, 28, dtype=torch.float64)
    basis = build_basis("haar_dct", (3, 28, 28))
    c = basis.to_components(x).reshape(2, 3, 28, 28)
    torch.testing.assert_close(c[..., 0, 0], x.mean(dim=(2, 3)) * 28)
    assert basis.level is not None
    level = basis.level.reshape(3, 28, 28)[1]
    assert [int((level == j).sum()) for j in range(4)] == [1, 48, 147, 588]
    assert level[0, 0] == 0


def test_haar_dct_is_haar_where_blocks_can_be_halved_to_one_pixel() -> None:
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    haar, both = build_basis("haar", (1, 16, 16)), build_basis("haar_dct", (1, 16, 16))
    assert torch.equal(both.to_components(x), haar.to_components(x))
    assert torch.equal(both.level, haar.level)


def test_haar_dct_of_odd_sides_is_the_dct() -> None:
    x = torch.rand(2, 1, 5, 8, dtype=torch.float64)
    expected = build_basis("dct", (1, 5, 8)).to_components(x)
    torch.testing.assert_close(build_basis("haar_dct", (1, 5, 8)).to_components(x), expected)


def test_colour_separates_grey_from_two_chroma_directions() -> None:
    basis = build_basis("colour", (3, 2, 2))
    grey = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    c = basis.to_components(grey).reshape(3, 4)
    torch.testing.assert_close(c[0], torch.full((4,), 0.5 * 3**0.5, dtype=torch.float64))
    torch.testing.assert_close(c[1:], torch.zeros(2, 4, dtype=torch.float64), rtol=0, atol=1e-15)
    assert basis.level is not None
    assert basis.level.tolist() == [0.0] * 4 + [1.0] * 8
