"""Diversity of a set of images: how far apart they lie, and which classes they are taken for.

Both come from mergeable counts, so a set of any size is measured block by block. No distance to the data replaces them:
a set that lacks a class or repeats itself can have a small one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from pipeline.evaluate.statistics import Array
from pipeline.shards import to_float

WINDOW = 50
"""Images whose mutual distances are summed: 1225 pairs."""
MAX_IMAGES = 10_000
"""Images of a set, from its beginning, whose distances are taken."""
MIN_SHARE = 0.02
"""Share of the images from which on a class counts as predicted."""


@dataclass(frozen=True, eq=False)
class Diversity:
    """What a set of images leaves behind for the diversity metrics.

    Attributes:
        pair_sum: `(windows,)`, sum of the Euclidean distances of all pairs inside a window.
        pair_count: `(windows,)`, number of those pairs.
        class_count: `(classes,)`, images by predicted class; None where the feature net predicts none.
    """

    pair_sum: Array
    pair_count: NDArray[np.int64]
    class_count: NDArray[np.int64] | None

    @classmethod
    def of(
        cls, levels: NDArray[Any], quantisation: int | None, *, first: int = 0, logits: NDArray[Any] | None = None
    ) -> "Diversity":
        """Diversity of the images `first` ... of a set.

        Args:
            levels: images (n, *shape) as stored: levels, which are inside the data range by construction, or points,
                which are taken as they are.
            quantisation: number of levels, or None for points.
            first: index of the first image in its set; images from index `MAX_IMAGES` on add no distances.
            logits: class logits (n, classes) of the images, or None.
        """
        near = levels[: max(0, MAX_IMAGES - first)]
        windows = [near[i : i + WINDOW] for i in range(0, len(near), WINDOW)]
        distances = [_distances(window, quantisation) for window in windows if len(window) > 1]
        classes = None
        if logits is not None:
            classes = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]).astype(np.int64)
        return cls(
            np.array([d.sum() for d in distances], np.float64), np.array([len(d) for d in distances], np.int64), classes
        )

    @classmethod
    def unpacked(cls, arrays: Any) -> "Diversity":
        """Inverse of `packed`, from a loaded npz."""
        classes = arrays["class_count"]
        return cls(arrays["pair_sum"], arrays["pair_count"], classes if len(classes) else None)

    @classmethod
    def joined(cls, parts: Sequence["Diversity"]) -> "Diversity":
        """Diversity of disjoint sets together, in the order of the parts."""
        counts = [part.class_count for part in parts if part.class_count is not None]
        return cls(
            np.concatenate([part.pair_sum for part in parts]),
            np.concatenate([part.pair_count for part in parts]),
            np.sum(counts, axis=0) if len(counts) == len(parts) else None,
        )

    def packed(self) -> dict[str, NDArray[np.generic]]:
        """Arrays for an npz."""
        classes = np.zeros(0, np.int64) if self.class_count is None else self.class_count
        return {"pair_sum": self.pair_sum, "pair_count": self.pair_count, "class_count": classes}

    def mean_distance(self) -> tuple[float, float | None] | None:
        """Mean Euclidean distance of two images of the set, and its standard error.

        The mean over all pairs inside windows of 50 consecutive images of the first 10 000: unbiased for images that
        are drawn independently. (With classes in turn a window holds every class equally often, so it has slightly
        fewer pairs of one class than a random window: below half a per cent for ten classes.) The error is the
        delete-one jackknife over windows, None with a single window. None altogether without a pair.
        """
        if not len(self.pair_count):
            return None
        total, pairs = self.pair_sum.sum(), self.pair_count.sum()
        if len(self.pair_count) < 2:
            return float(total / pairs), None
        left_out = (total - self.pair_sum) / (pairs - self.pair_count)
        num = len(left_out)
        return float(total / pairs), float(np.sqrt((num - 1) / num * ((left_out - left_out.mean()) ** 2).sum()))


def diversity_metrics(
    fake: Diversity, real: Diversity, *, suffix: str
) -> tuple[dict[str, float], dict[str, str], dict[str, Any]]:
    """Metrics, reasons of those that are absent, and protocol entries.

    - `pairwise_ratio`: mean distance of two generated images divided by that of two training images (both by
      `Diversity.mean_distance`, L2 over all pixels in [-1, 1]): 0 for one image repeated, about 1 for the data. Its
      `_se` adds the relative errors of both sides in quadrature.
    - `class_share_min<suffix>`: smallest share of the images that the feature net takes for any one class; 1 / classes
      at best, 0 when a class never appears.
    - `num_classes_predicted<suffix>`: classes that at least 2 % of the images are taken for.

    Args:
        fake: of the generated images.
        real: of the training images.
        suffix: what the names of metrics end in that depend on the feature net, such as `_clf_digits`.
    """
    metrics: dict[str, float] = {}
    reasons: dict[str, str] = {}
    protocol: dict[str, Any] = {}
    generated, training = fake.mean_distance(), real.mean_distance()
    if generated is None or training is None:
        reasons["pairwise_ratio"] = "a distance needs at least two images"
    elif training[0] == 0.0:
        reasons["pairwise_ratio"] = "all training images that were compared are equal"
    else:
        (a, a_se), (b, b_se) = generated, training
        metrics["pairwise_ratio"] = a / b
        if a_se is not None and b_se is not None:
            metrics["pairwise_ratio_se"] = float(np.hypot(a_se, a / b * b_se) / b)
        else:
            reasons["pairwise_ratio_se"] = f"an error needs two windows of {WINDOW} images on both sides"
        protocol = {"pairs": int(fake.pair_count.sum()), "mean_distance": a, "mean_distance_training": b}
    names = f"class_share_min{suffix}", f"num_classes_predicted{suffix}"
    if fake.class_count is None:
        reasons |= dict.fromkeys(names, "the feature net predicts no classes")
    else:
        shares = fake.class_count / fake.class_count.sum()
        metrics |= dict(zip(names, (float(shares.min()), float((shares >= MIN_SHARE).sum())), strict=True))
        protocol["class_shares"] = [float(share) for share in shares]
    return metrics, reasons, protocol


def _distances(images: NDArray[Any], quantisation: int | None) -> Array:
    """Distances of all pairs of images (n, *shape), `(n (n - 1) / 2,)`, by differences in float64."""
    rows = to_float(images, quantisation).reshape(len(images), -1).astype(np.float64)
    return np.asarray(pdist(rows), np.float64)
