"""Frechet distance of two Gaussians (Dowson & Landau 1982) by symmetric solvers only."""

import numpy as np
from scipy import linalg

from pipeline.evaluate.statistics import Array, FeatureStatistics

# Below this ratio of eigenvalues of S1 S2 the fast path takes square roots of rounding noise.
FAST_PATH_RATIO = 1e-10


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), never negative; no sqrtm and no added eps.

    Full-rank covariances use the generalised symmetric eigenproblem; rank-deficient ones (n <= dim, dead features)
    the nuclear norm of the covariances' square roots with null directions cut, where sqrtm loses 1e-6 and more.
    """
    if a.dim != b.dim:
        raise ValueError(f"feature sets of {a.dim} and {b.dim} dimensions have no distance")
    s_a, s_b = a.covariance, b.covariance
    delta = a.mean - b.mean
    root = _fast_trace_root(s_a, s_b) if min(a.n, b.n) > a.dim else None
    if root is None:
        root = rank_cut_trace_root(s_a, s_b)
    return max(float(delta @ delta + np.trace(s_a) + np.trace(s_b) - 2.0 * root), 0.0)


def _fast_trace_root(s_a: Array, s_b: Array) -> float | None:
    """tr (S_a S_b)^(1/2) from LAPACK's type-2 problem; None where its square roots would not be trusted."""
    try:
        eigenvalues = linalg.eigh(s_b, s_a, type=2, eigvals_only=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    if eigenvalues[0] <= eigenvalues[-1] * FAST_PATH_RATIO:
        return None
    return float(np.sum(np.sqrt(eigenvalues)))


def rank_cut_trace_root(s_a: Array, s_b: Array) -> float:
    """tr (S_a S_b)^(1/2) as the nuclear norm of A^T B, S = A A^T, with null directions of both cut."""
    product = _square_root(s_a).T @ _square_root(s_b)
    if product.size == 0:
        return 0.0
    return float(np.sum(linalg.svdvals(product, check_finite=False)))


def _square_root(covariance: Array) -> Array:
    """A (dim, rank) with A A^T = covariance; eigenvalues at rounding level are no directions."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    keep = eigenvalues > max(eigenvalues[-1], 0.0) * len(eigenvalues) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(eigenvalues[keep])
