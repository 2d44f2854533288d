"""Frechet distance of two Gaussians (Dowson & Landau 1982) by symmetric solvers only."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from pipeline.evaluate.statistics import Array, FeatureStatistics

# Below this ratio of eigenvalues of S1 S2 the fast path takes square roots of rounding noise.
FAST_PATH_RATIO = 1e-10


class ClassDistances(NamedTuple):
    """Distances by class, and for every class without one the reason."""

    distances: dict[int, float]
    reasons: dict[int, str]

    @property
    def mean(self) -> float | None:
        """Mean over classes; None while a class has no distance, because the mean of some is another number."""
        if self.reasons or not self.distances:
            return None
        return float(np.mean(list(self.distances.values())))


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


def frechet_by_class(
    fake: Mapping[int, FeatureStatistics], reference: Mapping[int, FeatureStatistics]
) -> ClassDistances:
    """Distance of every class of the reference to the generated images of that class.

    The bias of a distance falls with 1 / n, so classes compare with each other only at equal counts, and never with the
    distance of all classes together.

    Raises:
        ValueError: the generated images have a class that the reference lacks.
    """
    unknown = sorted(fake.keys() - reference.keys())
    if unknown:
        raise ValueError(f"no reference for the classes {unknown}; it has {sorted(reference)}")
    distances: dict[int, float] = {}
    reasons: dict[int, str] = {}
    for label in sorted(reference):
        found, of_class = fake.get(label), reference[label]
        if found is None or min(found.n, of_class.n) < 2:
            num_fake = 0 if found is None else found.n
            reasons[label] = (
                f"a distance needs two images on both sides, there are {num_fake} generated and {of_class.n} real ones"
            )
        else:
            distances[label] = frechet_distance(found, of_class)
    return ClassDistances(distances, reasons)


def _fast_trace_root(s_a: Array, s_b: Array) -> float | None:
    """tr (S_a S_b)^(1/2) from LAPACK's type-2 problem; None where its square roots would not be trusted."""
    try:
        # driver gv: dsygv, two thirds of the time of scipy's default dsygvd
        eigenvalues = linalg.eigh(s_b, s_a, type=2, eigvals_only=True, check_finite=False, driver="gv")
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


class Extrapolation(NamedTuple):
    """Least-squares line of a distance over 1 / n: its value at n = infinity, and its slope."""

    intercept: float
    slope: float


def extrapolated_distance(counts: ArrayLike, distances: ArrayLike) -> Extrapolation:
    """FD at infinitely many generated images (Chong & Forsyth 2020), from distances of sets of several sizes.

    It has no error bar and scatters about twice as much as the jackknife's corrected value; for comparison with tables
    that quote it.

    Args:
        counts: numbers of images `(k,)`, at least two different ones.
        distances: of the sets of these sizes to one reference, `(k,)`.
    """
    n, fd = np.asarray(counts, np.float64), np.asarray(distances, np.float64)
    if n.ndim != 1 or n.shape != fd.shape or len(np.unique(n)) < 2 or n.min() <= 0.0:
        raise ValueError(f"distances of shape {fd.shape} need as many counts, two of them different, found {n.shape}")
    design = np.stack([np.ones_like(n), 1.0 / n], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(design, fd)
    return Extrapolation(float(intercept), float(slope))
