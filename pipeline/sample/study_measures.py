"""What studies measure on images: distances, the frequencies of a difference, and whether they rise with the steps."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from pipeline.diffusion.bases.dct import DctBasis

Array = NDArray[np.float64]

CONFIDENCE = 0.95


def distances(images: Tensor, others: Tensor) -> Array:
    """Euclidean distance of every image to its partner: `(..., *shape)` twice -> `(...)` float64.

    Both are (batch, C, H, W) or (steps, batch, C, H, W), the second may lack the axis of steps; in data units, not
    clipped.
    """
    difference = images.double() - others.double()
    return difference.flatten(-3).norm(dim=-1).cpu().numpy()


def frequency_centroid(difference: Tensor) -> Array:
    """Power-weighted mean radial DCT index of images `(..., C, H, W)` -> `(...)` float64; NaN for an image of zeros.

    With the orthonormal DCT-II coefficients d_k of each channel, k = (k_y, k_x), it is sum_k |k| d_k^2 / sum_k d_k^2,
    |k| = sqrt(k_y^2 + k_x^2), over all channels: 0 for a flat difference, larger for finer structure. |k| counts half
    cycles per image.
    """
    shape = tuple(difference.shape[-3:])
    basis = DctBasis(shape)
    power = basis.to_components(difference.double().reshape(-1, *shape).cpu()).square()
    total = power.sum(dim=1)
    centroid = torch.where(total > 0, (power @ basis.frequency) / total, torch.nan)
    return centroid.reshape(difference.shape[:-3]).numpy()


@dataclass(frozen=True)
class Mean:
    """Mean over images, its standard error (None for fewer than two), and how many images had a value."""

    value: float | None
    se: float | None
    count: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"mean": self.value, "se": self.se, "count": self.count}


def mean_of(values: Array) -> Mean:
    """Mean of `(n,)`, NaN left out."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return Mean(None, None, 0)
    se = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
    return Mean(float(known.mean()), se, len(known))


@dataclass(frozen=True)
class Trend:
    """How a quantity goes with the step number.

    Attributes:
        slope: mean over images of the least-squares slope per step; None where no image has values at all steps.
        slope_se: its standard error over images.
        spearman: rank correlation of the steps' means with the step number; None where it is not defined.
        verdict: rises or falls when zero is outside the 95 % Student interval of the slope, else undecided.
    """

    slope: float | None
    slope_se: float | None
    spearman: float | None
    verdict: Literal["rises", "falls", "undecided"]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "slope_per_step": self.slope,
            "slope_se": self.slope_se,
            "spearman": self.spearman,
            "verdict": self.verdict,
            "criterion": "zero outside the 95 % interval of the mean over images of the least-squares slope",
        }


def trend(values: Array) -> Trend:
    """Trend of values `(steps, n)` along the steps; images with a NaN are left out."""
    complete = values[:, np.isfinite(values).all(axis=0)]
    num_steps, n = complete.shape
    if num_steps < 2 or n == 0:
        return Trend(None, None, None, "undecided")
    steps = np.arange(num_steps) - (num_steps - 1) / 2
    slopes = steps @ complete / (steps @ steps)
    slope = float(slopes.mean())
    means = complete.mean(axis=1)
    is_constant = bool((means == means[0]).all())
    spearman = None if num_steps < 3 or is_constant else float(np.corrcoef(steps, stats.rankdata(means))[0, 1])
    if n < 2:
        return Trend(slope, None, spearman, "undecided")
    se = float(slopes.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * se
    verdict = "rises" if slope > half else "falls" if slope < -half else "undecided"
    return Trend(slope, se, spearman, verdict)
