"""Metrics of points in few dimensions, where nothing has to be learnt: distances of samples, and modes of a mixture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from pipeline.evaluate.pairwise import BLOCK_ROWS, checked
from pipeline.evaluate.statistics import Array

NUM_DIRECTIONS = 256
NUM_SIGMAS = 4.0


@dataclass(frozen=True)
class ModeCoverage:
    """Where points lie among the modes of a mixture.

    Attributes:
        masses: share of the points that belong to each mode, `(K,)`.
        weights: what the shares should be, `(K,)`.
        distance: total variation distance of both, in [0, 1].
        beyond: share of the points that are farther than 4 standard deviations from every mode.
    """

    masses: tuple[float, ...]
    weights: tuple[float, ...]
    distance: float
    beyond: float


def sliced_w2(real: ArrayLike, fake: ArrayLike, *, num_directions: int = NUM_DIRECTIONS, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance (Rabin et al. 2011): root of the mean W2^2 of projections on random directions.

    Args:
        real: points `(n, dim)`.
        fake: points `(m, dim)`; n and m may differ.
        num_directions: unit vectors, uniform on the sphere. In one dimension one is enough and the value is W2.
        seed: of the directions; values with another seed or number differ by more than rounding.

    Raises:
        ValueError: different dimensions, no point, NaN or infinity.
    """
    x, y = _points(real, fake)
    directions = np.random.Generator(np.random.Philox(key=seed)).standard_normal((num_directions, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    levels, rows_x, rows_y = _common_quantiles(len(x), len(y))
    total = 0.0
    for direction in directions:
        u, v = np.sort(x @ direction), np.sort(y @ direction)
        total += float((levels * (u[rows_x] - v[rows_y]) ** 2).sum())
    return float(np.sqrt(total / num_directions))


def energy_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Szekely & Rizzo 2013) over all pairs, unbiased; may be negative.

    Args:
        real: points `(n, dim)`, n >= 2.
        fake: points `(m, dim)`, m >= 2.

    Raises:
        ValueError: different dimensions, fewer than two points, NaN or infinity.
    """
    x, y = _points(real, fake)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError("an energy distance needs at least two points on both sides")
    within = _sum_of_distances(x, x) / (n * (n - 1)) + _sum_of_distances(y, y) / (m * (m - 1))
    return 2.0 * _sum_of_distances(x, y) / (n * m) - within


def mode_coverage(points: ArrayLike, *, weights: ArrayLike, means: ArrayLike, variances: ArrayLike) -> ModeCoverage:
    """Share of points per mode of a mixture of diagonal Gaussians, and share that belongs to none.

    A point belongs to the mode with the largest posterior probability. Points that belong to none are counted for
    their likeliest mode nevertheless, so that masses add up to 1.

    Args:
        points: `(n, dim)`.
        weights: `(K,)`, positive; they need not add up to 1.
        means: `(K, dim)`.
        variances: `(K, dim)`, positive.

    Raises:
        ValueError: shapes that do not fit, weights or variances that are not positive, NaN or infinity.
    """
    x = checked(points, "points").astype(np.float64, copy=False)
    mixture = [np.asarray(parameter, np.float64) for parameter in (weights, means, variances)]
    w, mu, var = mixture
    if w.ndim != 1 or mu.shape != (len(w), x.shape[1]) or var.shape != mu.shape or len(w) == 0:
        raise ValueError(
            f"points of shape {x.shape} need weights (K,), means and variances (K, {x.shape[1]}), found {w.shape}, "
            f"{mu.shape} and {var.shape}"
        )
    if not all(np.isfinite(parameter).all() for parameter in mixture) or w.min() <= 0.0 or var.min() <= 0.0:
        raise ValueError("a mixture needs finite means, and positive finite weights and variances")
    share = w / w.sum()
    squared = _mahalanobis(x, mu, var)
    log_posterior = np.log(share) - 0.5 * (squared + np.log(var).sum(axis=1))
    masses = np.bincount(log_posterior.argmax(axis=1), minlength=len(w)) / len(x)
    return ModeCoverage(
        tuple(float(mass) for mass in masses),
        tuple(float(weight) for weight in share),
        float(np.abs(masses - share).sum() / 2.0),
        float((squared.min(axis=1) > NUM_SIGMAS**2).mean()),
    )


def _points(real: ArrayLike, fake: ArrayLike) -> tuple[Array, Array]:
    x = checked(real, "real points").astype(np.float64, copy=False)
    y = checked(fake, "generated points").astype(np.float64, copy=False)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"points of {x.shape[1]} and {y.shape[1]} dimensions have no distance")
    return x, y


def _mahalanobis(x: Array, means: Array, variances: Array) -> Array:
    """Squared Mahalanobis distances `(n, K)`."""
    return np.stack(
        [((x - mean) ** 2 / variance).sum(axis=1) for mean, variance in zip(means, variances, strict=True)], 1
    )


def _common_quantiles(n: int, m: int) -> tuple[Array, np.ndarray, np.ndarray]:
    """Lengths of the intervals on which both empirical quantile functions are constant, and the sorted rows there."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m)
    starts = np.concatenate([[0], ends[:-1]])
    return (ends - starts) / (n * m), starts // m, starts // n


def _sum_of_distances(x: Array, y: Array) -> float:
    return float(sum(cdist(x[i : i + BLOCK_ROWS], y).sum() for i in range(0, len(x), BLOCK_ROWS)))
