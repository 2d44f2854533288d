"""Distances of two feature samples that look past the second moment: kernel distance, precision and recall."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluate.statistics import Array

BLOCK_ROWS = 1024


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] of generated rows inside the real manifold, and of real rows inside the generated one."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density >= 0 and coverage in [0, 1] of Naeem et al. 2020."""

    density: float
    coverage: float


def kernel_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """Unbiased squared MMD with k(x, y) = (x.y / dim + 1)^3 over all rows (Binkowski et al. 2018); may be negative.

    A U-statistic needs no subsets and no random numbers, and allows (n, dim) against (m, dim) with n != m.
    """
    x, y = _features(real), _features(fake)
    if min(len(x), len(y)) < 2:
        raise ValueError("a kernel distance needs at least two rows on both sides")
    return _within(x) + _within(y) - 2.0 * _kernel_sum(x, y) / (len(x) * len(y))


def kernel_distance_of_subsets(
    real: ArrayLike, fake: ArrayLike, *, num_subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Mean and population standard deviation over random subsets, in torch-fidelity's order of draws (fake first)."""
    x, y = _features(real), _features(fake)
    generator = np.random.RandomState(seed)
    values = []
    for _ in range(num_subsets):
        rows_y = generator.choice(len(y), subset_size, replace=False)
        rows_x = generator.choice(len(x), subset_size, replace=False)
        values.append(kernel_distance(x[rows_x], y[rows_y]))
    return float(np.mean(values)), float(np.std(values))


def precision_recall(real: ArrayLike, fake: ArrayLike, *, k: int = 3, is_strict: bool = False) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019) with balls up to the k-th neighbour, self excluded.

    A point on the boundary counts as inside (torch-fidelity) unless `is_strict` (prdc): with duplicates the two differ
    a lot.
    """
    x, y = _features(real), _features(fake)
    return PrecisionRecall(_inside(x, y, k, is_strict), _inside(y, x, k, is_strict))


def density_coverage(real: ArrayLike, fake: ArrayLike, *, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, as prdc: strict balls around real rows)."""
    x, y = _features(real), _features(fake)
    radii = _squared_radii(x, k)
    num_pairs = 0
    is_covered = np.zeros(len(x), bool)
    for _, distances in _squared_distances(y, x):
        inside = distances < radii
        num_pairs += int(inside.sum())
        is_covered |= inside.any(axis=0)
    return DensityCoverage(num_pairs / (k * len(y)), float(is_covered.mean()))


def _features(rows: ArrayLike) -> Array:
    x = np.asarray(rows, np.float64)
    if x.ndim != 2:
        raise ValueError(f"features must be (n, dim), found shape {x.shape}")
    return x


def _kernel_sum(x: Array, y: Array) -> float:
    blocks = (x[start : start + BLOCK_ROWS] for start in range(0, len(x), BLOCK_ROWS))
    return float(sum(((block @ y.T / x.shape[1] + 1.0) ** 3).sum() for block in blocks))


def _within(x: Array) -> float:
    diagonal = float((((x * x).sum(axis=1) / x.shape[1] + 1.0) ** 3).sum())
    return (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


def _squared_distances(x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
    """Blocks (rows of x, squared distances to all of y); exact for integers, centred against cancellation."""
    centre = np.round(y.mean(axis=0))
    a, b = x - centre, y - centre
    norms = (b * b).sum(axis=1)
    for start in range(0, len(a), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(a)))
        block = a[rows]
        yield rows, np.maximum((block * block).sum(axis=1)[:, None] + norms - 2.0 * (block @ b.T), 0.0)


def _squared_radii(x: Array, k: int) -> Array:
    """Squared distance of every row to its k-th neighbour other than itself."""
    if not 1 <= k < len(x):
        raise ValueError(f"{len(x)} rows have no {k}-th neighbour")
    radii = np.empty(len(x))
    for rows, distances in _squared_distances(x, x):
        own: NDArray[np.int64] = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = -1.0  # the point itself comes first whatever rounding did
        radii[rows] = np.partition(distances, k, axis=1)[:, k]
    return radii


def _inside(manifold: Array, points: Array, k: int, is_strict: bool) -> float:
    radii = _squared_radii(manifold, k)
    hits = 0
    for _, distances in _squared_distances(points, manifold):
        hits += int((distances < radii if is_strict else distances <= radii).any(axis=1).sum())
    return hits / len(points)
