"""Mergeable first and second moments of a feature set (Chan, Golub & LeVeque 1979)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import get_blas_funcs

Array = NDArray[np.float64]
Method = Literal["float64", "float32"]

FLOAT32_ROWS = 10_000
"""Sets with more rows take float32 products unless they are told otherwise."""
BLOCK_ROWS = 1000
PANEL = 256


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Count n, mean (dim,) and scatter M2 (dim, dim) = sum (x - mean)(x - mean)^T, float64.

    Unlike raw moments the triple keeps its digits when |mean| >> std. Merging is commutative and associative up to
    rounding, so bits are kept only by merging in one fixed order: see `merged`.

    Attributes:
        n: number of rows.
        mean: `(dim,)`.
        scatter: `(dim, dim)`.
        method: precision of the products of rows; `float32` as soon as one part of a union was made that way.
    """

    n: int
    mean: Array
    scatter: Array
    method: Method = "float64"

    @classmethod
    def of(cls, features: ArrayLike, *, method: Method | None = None) -> "FeatureStatistics":
        """Moments of features.

        Args:
            features: `(n, dim)`, n >= 1, any float dtype.
            method: `float64`; or `float32`: products of rows, shifted by the mean of the first 1000, in float32 per
                block of 1000 rows, and float64 sums of blocks, in half the time. A Frechet distance moves by less than
                1e-6 of itself. None: float64 up to 10 000 rows, float32 above.

        Raises:
            ValueError: no rows, another number of axes, NaN, infinity, or values whose squares are infinite.
        """
        x = np.asarray(features)
        if x.ndim != 2 or x.shape[0] == 0:
            raise ValueError(f"features must be (n >= 1, dim), found shape {x.shape}")
        if x.dtype.name not in ("float32", "float64"):
            x = x.astype(np.float64)
        if not np.isfinite(x).all():
            raise ValueError("features hold NaN or infinity")
        if method == "float32" or (method is None and len(x) > FLOAT32_ROWS):
            found = _float32_moments(x)
            if found is not None:
                return cls(len(x), *found, "float32")
        x = x.astype(np.float64, copy=False)
        mean = x.mean(axis=0)
        centred = x - mean
        with np.errstate(over="ignore"):
            scatter = centred.T @ centred
        if not np.isfinite(np.diagonal(scatter)).all():
            raise ValueError(f"features up to {np.abs(x).max():.3g} are too large for a covariance")
        return cls(len(x), mean, scatter)

    @classmethod
    def from_moments(cls, mean: ArrayLike, covariance: ArrayLike, *, n: int) -> "FeatureStatistics":
        """Moments from a mean (dim,) and a covariance (dim, dim) with divisor n - 1."""
        return cls(n, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (n - 1))

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Array:
        """Covariance (dim, dim) with divisor n - 1, as numpy.cov and every public FID code; n >= 2."""
        if self.n < 2:
            raise ValueError("a covariance needs at least two feature rows")
        return self.scatter / (self.n - 1)

    @property
    def num_constant(self) -> int:
        """Features that have the same value in every row: dead units of the net, or a set of one repeated image."""
        return int((np.diagonal(self.scatter) <= 0.0).sum())

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Moments of the union of two disjoint sets."""
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.n * other.n / n)
        return FeatureStatistics(n, mean, scatter, _joint(self, other))

    def without(self, part: "FeatureStatistics") -> "FeatureStatistics":
        """Moments of the set with `part` (a proper subset) taken out: the inverse of `merge`."""
        n = self.n - part.n
        if n < 1:
            raise ValueError(f"cannot take {part.n} rows out of {self.n}")
        mean = (self.n * self.mean - part.n * part.mean) / n
        delta = part.mean - mean
        scatter = self.scatter - part.scatter - np.outer(delta, delta) * (n * part.n / self.n)
        return FeatureStatistics(n, mean, scatter, _joint(self, part))


def merged(parts: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """Union of the parts by a fixed binary tree over their order, so that bits depend on the order alone."""
    if not parts:
        raise ValueError("nothing to merge")
    level = list(parts)
    while len(level) > 1:
        pairs = [level[i].merge(level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


def statistics_by_class(features: ArrayLike, labels: ArrayLike) -> dict[int, FeatureStatistics]:
    """Moments of the rows of every class, by label: features (n, dim), labels (n,) integers."""
    x, y = np.asarray(features), np.asarray(labels)
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(f"{len(x)} feature rows need as many integer labels, found {y.dtype} of shape {y.shape}")
    return {int(label): FeatureStatistics.of(x[y == label]) for label in np.unique(y)}


def packed(parts: Sequence[FeatureStatistics]) -> dict[str, NDArray[np.generic]]:
    """Arrays count (g,), mean (g, dim) and the scatter's upper triangles (g, dim (dim + 1) / 2).

    Where a part is not of method float64 there is also `method` (g,), of strings.
    """
    rows, columns = np.triu_indices(parts[0].dim)
    arrays: dict[str, NDArray[np.generic]] = {
        "count": np.array([p.n for p in parts], np.int64),
        "mean": np.stack([p.mean for p in parts]),
        "scatter": np.stack([p.scatter[rows, columns] for p in parts]),
    }
    if any(p.method != "float64" for p in parts):
        arrays["method"] = np.array([p.method for p in parts])
    return arrays


def unpacked(
    count: NDArray[np.int64], mean: Array, scatter: Array, method: NDArray[np.str_] | None = None
) -> list[FeatureStatistics]:
    """Inverse of `packed`."""
    dim = mean.shape[1]
    rows, columns = np.triu_indices(dim)
    methods = ["float64"] * len(count) if method is None else [str(name) for name in method]
    parts = []
    for n, centre, triangle, name in zip(count, mean, scatter, methods, strict=True):
        full = np.zeros((dim, dim))
        full[rows, columns] = triangle
        full[columns, rows] = triangle
        parts.append(FeatureStatistics(int(n), centre, full, "float64" if name == "float64" else "float32"))
    return parts


def _joint(a: FeatureStatistics, b: FeatureStatistics) -> Method:
    return "float64" if a.method == b.method == "float64" else "float32"


def _float32_moments(x: NDArray[np.floating]) -> tuple[Array, Array] | None:
    """Mean and scatter from float32 products; None where their range does not suffice.

    Rows are shifted, so that little cancels, and scaled by a power of two, so that nothing is lost to small or large
    units. Only a triangle is computed, by BLAS syrk, and added to float64 in panels of rows.
    """
    shift = x[:BLOCK_ROWS].mean(axis=0, dtype=np.float64).astype(x.dtype)
    _, exponent = np.frexp(np.abs(x[:BLOCK_ROWS] - shift).max(initial=0.0))
    scale = np.ldexp(1.0, -int(exponent))
    dim = x.shape[1]
    total, scatter = np.zeros(dim), np.zeros((dim, dim))
    syrk = get_blas_funcs(["syrk"], dtype=np.float32)[0]
    with np.errstate(over="ignore", invalid="ignore"):  # seen at the end
        for start in range(0, len(x), BLOCK_ROWS):
            block = x[start : start + BLOCK_ROWS] - shift
            block *= x.dtype.type(scale)
            block = block.astype(np.float32, copy=False)
            total += block.sum(axis=0, dtype=np.float64)
            products = syrk(1.0, block.T).T  # lower triangle; the rest is zero
            for row in range(0, dim, PANEL):
                panel = slice(row, row + PANEL)
                scatter[panel, : row + PANEL] += products[panel, : row + PANEL]
    if not np.isfinite(scatter).all():
        return None
    offset = total / len(x)
    scatter -= np.outer(offset, offset) * len(x)
    scatter = np.tril(scatter) + np.tril(scatter, -1).T
    return shift + offset / scale, scatter / scale**2
