"""Distances of two feature samples that look past the second moment: kernel distance, precision and recall."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluate import pairwise
from pipeline.evaluate.pairwise import Floats, Index, Rows
from pipeline.evaluate.statistics import Array

BLOCK_ROWS = 1024
SPARE = 4
"""Candidates beyond the k-th neighbour; more than so many ties are settled by looking at all rows."""


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] of generated rows inside the real manifold, and of real rows inside the generated one."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density >= 0 and coverage in [0, 1] of Naeem et al. 2020."""

    density: float
    coverage: float


class NeighbourMetrics(NamedTuple):
    """Precision and recall, and density and coverage."""

    precision: float
    recall: float
    density: float
    coverage: float


def kernel_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """Unbiased squared MMD with k(x, y) = (x.y / dim + 1)^3 over all rows (Binkowski et al. 2018); may be negative.

    A U-statistic needs no subsets and no random numbers, and allows (n, dim) against (m, dim) with n != m.
    """
    x, y = _float64(real, "real features"), _float64(fake, "generated features")
    if min(len(x), len(y)) < 2:
        raise ValueError("a kernel distance needs at least two rows on both sides")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"rows of {x.shape[1]} and {y.shape[1]} dimensions have no distance")
    return _within(x) + _within(y) - 2.0 * _kernel_sum(x, y) / (len(x) * len(y))


def kernel_distance_of_subsets(
    real: ArrayLike, fake: ArrayLike, *, num_subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Mean and population standard deviation over random subsets, in torch-fidelity's order of draws (fake first)."""
    x, y = _float64(real, "real features"), _float64(fake, "generated features")
    if subset_size > min(len(x), len(y)):
        raise ValueError(
            f"subsets of {subset_size} rows cannot be drawn from {len(x)} real and {len(y)} generated ones"
        )
    generator = np.random.RandomState(seed)
    values = []
    for _ in range(num_subsets):
        rows_y = generator.choice(len(y), subset_size, replace=False)
        rows_x = generator.choice(len(x), subset_size, replace=False)
        values.append(kernel_distance(x[rows_x], y[rows_y]))
    return float(np.mean(values)), float(np.std(values))


def precision_recall_density_coverage(
    real: ArrayLike, fake: ArrayLike, *, k_pr: int = 3, k_dc: int = 5
) -> NeighbourMetrics:
    """Precision, recall, density and coverage by one pass over the pairs, in memory of a block of pairs.

    Distances are float32 products, but decisions those of float64 (`pairwise`): duplicates and ties are exact.

    Args:
        real: features `(n, dim)`, n > k_pr and n > k_dc.
        fake: features `(m, dim)`, m > k_pr.
        k_pr: neighbour that sets the radius for precision and recall; a point on a ball's boundary is inside, as in
            torch-fidelity.
        k_dc: neighbour that sets the radius for density and coverage; a point on the boundary is outside, as in prdc.

    Raises:
        ValueError: too few rows, different numbers of features, NaN or infinity.
    """
    return _measured(real, fake, k_pr=k_pr, k_dc=k_dc, is_strict=False)


def precision_recall(real: ArrayLike, fake: ArrayLike, *, k: int = 3, is_strict: bool = False) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019) with balls up to the k-th neighbour, self excluded.

    A point on the boundary counts as inside (torch-fidelity) unless `is_strict` (prdc): with duplicates the two differ
    a lot.
    """
    found = _measured(real, fake, k_pr=k, k_dc=k, is_strict=is_strict)
    return PrecisionRecall(found.precision, found.recall)


def density_coverage(real: ArrayLike, fake: ArrayLike, *, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, as prdc: strict balls around real rows)."""
    found = _measured(real, fake, k_pr=None, k_dc=k, is_strict=True)
    return DensityCoverage(found.density, found.coverage)


@dataclass(frozen=True, eq=False)
class _Balls:
    """Balls around every row up to its k-th neighbour, with radii between bounds, and exact ones on request.

    Attributes:
        rows: the centres.
        low: lower bounds of the candidates' squared distances, `(n, k + spare)`, rising.
        high: upper bounds of the same, in an order of their own, rising.
        index: the candidates.
        settled: exact squared distances of the candidates in units of the rows, rising; NaN until they are asked for.
        reach: no row that is not a candidate is nearer, `(n,)`, squared, in units of the rows.
    """

    rows: Rows
    low: Array
    high: Array
    index: Index
    settled: Array
    reach: Array

    @classmethod
    def of(cls, rows: Rows, k: int) -> "_Balls":
        """Balls for neighbours up to the k-th."""
        if not 1 <= k < len(rows):
            raise ValueError(f"{len(rows)} rows have no {k}-th neighbour")
        low, index = pairwise.own_candidates(rows, min(k + SPARE, len(rows) - 1))
        centres = np.broadcast_to(np.arange(len(rows))[:, None], index.shape)
        high = low + pairwise.error_span(rows, rows, (centres, index))
        reach = low.max(axis=1) / rows.scale**2 if index.shape[1] < len(rows) - 1 else np.full(len(rows), np.inf)
        return cls(rows, np.sort(low, axis=1), np.sort(high, axis=1), index, np.full(index.shape, np.nan), reach)

    def radii(self, balls: Index, k: int) -> Array:
        """Exact squared radii of some balls, in units of the rows."""
        new = np.unique(balls[np.isnan(self.settled[balls, 0])])
        num = self.index.shape[1]
        squared = pairwise.exact(self.rows, self.rows, (np.repeat(new, num), self.index[new].ravel()))
        self.settled[new] = np.sort(squared.reshape(-1, num), axis=1)
        farthest = self.settled[balls, k - 1]
        for ball in np.unique(balls[(farthest > self.reach[balls]) & (farthest > 0.0)]):
            others = np.delete(np.arange(len(self.rows)), ball)
            squared = pairwise.exact(self.rows, self.rows, (np.full_like(others, ball), others))
            self.settled[ball], self.reach[ball] = np.sort(squared)[:num], np.inf
        return self.settled[balls, k - 1]

    def holds(
        self, points: Rows, pairs: tuple[Index, Index], bounds: Floats, *, k: int, is_strict: bool
    ) -> NDArray[np.bool_]:
        """Whether pairs (point, ball) with these lower bounds are of a point inside a ball."""
        upper = bounds + pairwise.error_span(points, self.rows, pairs)
        is_inside = upper < self.low[pairs[1], k - 1]
        is_open = np.flatnonzero(~is_inside & (bounds <= self.high[pairs[1], k - 1]))
        point, ball = pairs[0][is_open], pairs[1][is_open]
        squared, radii = pairwise.exact(points, self.rows, (point, ball)), self.radii(ball, k)
        is_inside[is_open] = squared < radii if is_strict else squared <= radii
        return is_inside


def _measured(real: ArrayLike, fake: ArrayLike, *, k_pr: int | None, k_dc: int, is_strict: bool) -> NeighbourMetrics:
    """All four; without `k_pr` precision and recall are 0. `is_strict` is of precision and recall."""
    x, y = pairwise.prepared(pairwise.checked(real, "real features"), pairwise.checked(fake, "generated features"))
    k_real = max(k_dc, k_pr or 0)
    real_balls, fake_balls = _Balls.of(x, k_real), None if k_pr is None else _Balls.of(y, k_pr)
    is_precise, is_recalled, is_covered = np.zeros(len(y), bool), np.zeros(len(x), bool), np.zeros(len(x), bool)
    num_inside = 0
    for rows, block in pairwise.lower_bounds(y, x):
        at = np.nonzero(block <= real_balls.high[:, k_real - 1])
        pairs, bounds = (at[0] + rows.start, at[1]), block[at]
        inside = real_balls.holds(y, pairs, bounds, k=k_dc, is_strict=True)
        num_inside += int(inside.sum())
        is_covered[pairs[1][inside]] = True
        if k_pr is not None and fake_balls is not None:
            inside = real_balls.holds(y, pairs, bounds, k=k_pr, is_strict=is_strict)
            is_precise[pairs[0][inside]] = True
            at = np.nonzero(block <= fake_balls.high[rows, k_pr - 1, None])
            pairs = at[1], at[0] + rows.start
            is_recalled[pairs[0][fake_balls.holds(x, pairs, block[at], k=k_pr, is_strict=is_strict)]] = True
    return NeighbourMetrics(
        float(is_precise.mean()),
        float(is_recalled.mean()),
        float(num_inside / (k_dc * len(y))),
        float(is_covered.mean()),
    )


def _float64(rows: ArrayLike, name: str) -> Array:
    return pairwise.checked(rows, name).astype(np.float64, copy=False)


def _kernel_sum(x: Array, y: Array) -> float:
    blocks = (x[start : start + BLOCK_ROWS] for start in range(0, len(x), BLOCK_ROWS))
    return float(sum(((block @ y.T / x.shape[1] + 1.0) ** 3).sum() for block in blocks))


def _within(x: Array) -> float:
    diagonal = float((((x * x).sum(axis=1) / x.shape[1] + 1.0) ** 3).sum())
    return (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))
