"""Mergeable first and second moments of a feature set (Chan, Golub & LeVeque 1979)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Count n, mean (dim,) and scatter M2 (dim, dim) = sum (x - mean)(x - mean)^T, float64.

    Unlike raw moments the triple keeps its digits when |mean| >> std. Merging is commutative and associative up to
    rounding, so bits are kept only by merging in one fixed order: see `merged`.
    """

    n: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, features: ArrayLike) -> "FeatureStatistics":
        """Moments of features (n, dim), n >= 1, any float dtype, accumulated in float64."""
        x = np.asarray(features, dtype=np.float64)
        if x.ndim != 2 or x.shape[0] == 0:
            raise ValueError(f"features must be (n >= 1, dim), found shape {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("features hold NaN or infinity")
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(x.shape[0], mean, centred.T @ centred)

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

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Moments of the union of two disjoint sets."""
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.n * other.n / n)
        return FeatureStatistics(n, mean, scatter)

    def without(self, part: "FeatureStatistics") -> "FeatureStatistics":
        """Moments of the set with `part` (a proper subset) taken out: the inverse of `merge`."""
        n = self.n - part.n
        if n < 1:
            raise ValueError(f"cannot take {part.n} rows out of {self.n}")
        mean = (self.n * self.mean - part.n * part.mean) / n
        delta = part.mean - mean
        scatter = self.scatter - part.scatter - np.outer(delta, delta) * (n * part.n / self.n)
        return FeatureStatistics(n, mean, scatter)


def merged(parts: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """Union of the parts by a fixed binary tree over their order, so that bits depend on the order alone."""
    if not parts:
        raise ValueError("nothing to merge")
    level = list(parts)
    while len(level) > 1:
        pairs = [level[i].merge(level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


def packed(parts: Sequence[FeatureStatistics]) -> dict[str, NDArray[np.generic]]:
    """Arrays count (g,), mean (g, dim) and the scatter's upper triangles (g, dim (dim + 1) / 2)."""
    rows, columns = np.triu_indices(parts[0].dim)
    return {
        "count": np.array([p.n for p in parts], np.int64),
        "mean": np.stack([p.mean for p in parts]),
        "scatter": np.stack([p.scatter[rows, columns] for p in parts]),
    }


def unpacked(count: NDArray[np.int64], mean: Array, scatter: Array) -> list[FeatureStatistics]:
    """Inverse of `packed`."""
    dim = mean.shape[1]
    rows, columns = np.triu_indices(dim)
    parts = []
    for n, centre, triangle in zip(count, mean, scatter, strict=True):
        full = np.zeros((dim, dim))
        full[rows, columns] = triangle
        full[columns, rows] = triangle
        parts.append(FeatureStatistics(int(n), centre, full))
    return parts
