"""Precision, recall, density and coverage from float32 blocks: the answers of float64, ties and all."""

import numpy as np
import pytest

from pipeline.evaluate import kernel_distance, pairwise, precision_recall
from pipeline.evaluate.neighbours import (
    NeighbourMetrics,
    density_coverage,
    kernel_distance_of_subsets,
    precision_recall_density_coverage,
)


def by_definition(real: np.ndarray, fake: np.ndarray, k_pr: int, k_dc: int) -> NeighbourMetrics:
    """All distances from float64 differences at once."""
    x, y = real.astype(np.float64), fake.astype(np.float64)

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None] - b[None]) ** 2).sum(axis=2)

    of_real, of_fake, across = np.sort(squared(x, x)), np.sort(squared(y, y)), squared(y, x)
    inside = across < of_real[:, k_dc]
    return NeighbourMetrics(
        (across <= of_real[:, k_pr]).any(axis=1).mean(),
        (across <= of_fake[:, k_pr, None]).any(axis=0).mean(),
        inside.sum() / (k_dc * len(y)),
        inside.any(axis=0).mean(),
    )


def grid(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return rng.integers(0, 4, (n, min(dim, 3))) / 127.5 - 1.0


def normal(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return rng.standard_normal((n, dim))


def distant(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return rng.standard_normal((n, dim)) * 1e-3 + 1e3


def doubled(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return np.repeat(np.random.default_rng(dim).standard_normal((n, dim)) * 1e9, 2, axis=0)[:n]


@pytest.mark.parametrize("draw", [grid, normal, distant, doubled])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_metrics_equal_their_definition_in_float64(draw: object, dtype: type) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n, m, dim = rng.integers(8, 70), rng.integers(8, 70), rng.integers(1, 40)
        k_pr, k_dc = rng.integers(1, 6, 2)
        x, y = draw(rng, n, dim).astype(dtype), draw(rng, m, dim).astype(dtype)  # type: ignore[operator]
        found = precision_recall_density_coverage(x, y, k_pr=int(k_pr), k_dc=int(k_dc))
        np.testing.assert_allclose(found, by_definition(x, y, k_pr, k_dc), rtol=1e-14)


def test_metrics_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((150, 20)), rng.standard_normal((130, 20)) * 0.9
    whole = precision_recall_density_coverage(x, y)
    monkeypatch.setattr(pairwise, "BLOCK_ROWS", 7)
    assert precision_recall_density_coverage(x, y) == whole


def test_one_pass_gives_what_the_separate_functions_give() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 3, (90, 3)), rng.integers(0, 3, (80, 3))
    found = precision_recall_density_coverage(x, y, k_pr=3, k_dc=5)
    assert found[:2] == precision_recall(x, y, k=3)
    assert found[2:] == density_coverage(x, y, k=5)


def test_a_set_that_exploded_still_has_the_neighbours_of_float64() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 3))
    y[:3] *= 1e22
    np.testing.assert_allclose(precision_recall_density_coverage(x, y), by_definition(x, y, 3, 5), rtol=1e-14)


def test_constant_features_hold_each_other_on_the_boundary_alone() -> None:
    x = np.full((600, 512), 0.3, np.float32)
    assert precision_recall_density_coverage(x, x[:500]) == (1.0, 1.0, 0.0, 0.0)
    assert precision_recall_density_coverage(x, x[:500] + 1) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (np.full((9, 2), np.nan), np.zeros((9, 2)), "real features hold NaN"),
        (np.zeros((9, 2)), np.full((9, 2), np.inf), "generated features hold NaN"),
        (np.zeros((9, 2)), np.zeros((9, 3)), "2 and 3 dimensions"),
        (np.zeros((5, 2)), np.zeros((9, 2)), "5 rows have no 5-th neighbour"),
        (np.zeros((9, 2)), np.zeros((3, 2)), "3 rows have no 3-th neighbour"),
        (np.zeros((9, 2)), np.zeros((0, 2)), "generated features must be"),
    ],
)
def test_sets_without_neighbours_are_refused(x: np.ndarray, y: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        precision_recall_density_coverage(x, y)


def test_kernel_distance_refuses_sets_that_have_none() -> None:
    with pytest.raises(ValueError, match="generated features hold NaN"):
        kernel_distance(np.zeros((4, 2)), np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match="2 and 3 dimensions have no distance"):
        kernel_distance(np.zeros((4, 2)), np.zeros((4, 3)))


def test_kernel_subsets_larger_than_a_set_are_refused() -> None:
    with pytest.raises(ValueError, match="subsets of 10 rows cannot be drawn from 20 real and 5 generated"):
        kernel_distance_of_subsets(np.zeros((20, 2)), np.zeros((5, 2)), num_subsets=2, subset_size=10, seed=0)
