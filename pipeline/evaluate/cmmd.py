"""CLIP maximum mean discrepancy (Jayasumana et al. 2024): a Gaussian kernel between embeddings of unit length."""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.evaluate.pairwise import BLOCK_ROWS, checked
from pipeline.evaluate.statistics import Array

SIGMA = 10.0
SCALE = 1000.0


def cmmd(real: ArrayLike, fake: ArrayLike, *, sigma: float = SIGMA, scale: float = SCALE) -> float:
    """`scale` times the biased squared MMD of rows brought to unit length, k(x, y) = exp(-|x - y|^2 / (2 sigma^2)).

    Biased as published: pairs of a row with itself count, so two equal sets have 0 and two samples of one distribution
    more. With unit rows and sigma = 10 the kernel is all but linear: the number sees little but the means.

    Args:
        real: embeddings `(n, dim)`; the published net is CLIP ViT-L/14 at 336 pixels.
        fake: embeddings `(m, dim)`.
        sigma: width of the kernel.
        scale: factor for readability.

    Raises:
        ValueError: different numbers of features, a row of zeros, NaN or infinity.
    """
    x, y = _unit(real, "real embeddings"), _unit(fake, "generated embeddings")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"embeddings of {x.shape[1]} and {y.shape[1]} dimensions have no distance")
    # The ones in k = 1 + (k - 1) cancel between the three means; without them no digits are lost.
    means = [_mean_kernel_minus_one(a, b, sigma) for a, b in ((x, x), (y, y), (x, y))]
    return scale * (means[0] + means[1] - 2.0 * means[2])


def _unit(rows: ArrayLike, name: str) -> Array:
    x = checked(rows, name).astype(np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if (norms == 0.0).any():
        raise ValueError(f"{name} hold a row of zeros, which has no direction")
    return x / norms


def _mean_kernel_minus_one(x: Array, y: Array, sigma: float) -> float:
    total = 0.0
    for start in range(0, len(x), BLOCK_ROWS):
        squared = np.maximum(2.0 - 2.0 * (x[start : start + BLOCK_ROWS] @ y.T), 0.0)
        total += float(np.expm1(squared / (-2.0 * sigma**2)).sum())
    return total / (len(x) * len(y))
