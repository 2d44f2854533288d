"""Inception score of class logits (Salimans et al. 2016), and of class logits alone: it never sees the data."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, xlogy

from pipeline.evaluate.statistics import Array

SHUFFLE_SEED = 2020
"""Seed of torch-fidelity's permutation."""


class InceptionScore(NamedTuple):
    """Mean of exp(KL) over the splits, and their population standard deviation, which is no standard error."""

    mean: float
    std: float


def inception_score(
    logits: ArrayLike, *, num_splits: int = 10, shuffle_seed: int | None = SHUFFLE_SEED
) -> InceptionScore:
    """exp(E KL(p(y | x) || p(y))) per split of the images, in float64.

    Args:
        logits: `(n, classes)`, of the Inception net those without bias; n >= num_splits.
        num_splits: split k holds the images from k n // num_splits on.
        shuffle_seed: of the permutation of the images before they are split (torch-fidelity: 2020), so that images in
            order of their class do not make splits of one class; None takes them as they come (the original).

    Raises:
        ValueError: another shape, fewer images than splits, NaN or infinity.
    """
    x = np.asarray(logits, np.float64)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"logits must be (n, classes >= 2), found shape {x.shape}")
    if not 1 <= num_splits <= len(x):
        raise ValueError(f"{len(x)} images cannot be put into {num_splits} splits")
    if not np.isfinite(x).all():
        raise ValueError("logits hold NaN or infinity")
    if shuffle_seed is not None:
        x = x[np.random.RandomState(shuffle_seed).permutation(len(x))]
    bounds = [k * len(x) // num_splits for k in range(num_splits + 1)]
    scores = [_score(x[lo:hi]) for lo, hi in pairwise(bounds)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: Array) -> float:
    log_p = log_softmax(logits, axis=1)
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    divergence = (p * log_p).sum() / len(p) - xlogy(marginal, marginal).sum()
    return float(np.exp(divergence))
