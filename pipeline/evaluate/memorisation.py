"""Memorisation: are generated images nearer to the training images than images that the model has never seen?

The distance of an image to its nearest training image says nothing by itself: it depends on the data. So generated
images are held against the held-out split, whose distances to the training images are what an honest model can expect
(the ratio of medians is about 1; 0 for copies). Distances are Euclidean, of flattened images or of features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluate import pairwise
from pipeline.evaluate.jackknife import NUM_BLOCKS
from pipeline.evaluate.statistics import Array

QUANTILE = 0.01
"""Share of the held-out images that lie nearer than the threshold."""
NUM_PAIRS = 20
SPARE = 4


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest training image of every image of a set, as far as it has been searched.

    Attributes:
        image: index of the image in its set, `(n,)`.
        index: index of its nearest training image, `(n,)`; of equally near ones the least.
        distance: Euclidean distance to it, `(n,)`, float64.
    """

    image: NDArray[np.int64]
    index: NDArray[np.int64]
    distance: Array

    @classmethod
    def of(cls, images: ArrayLike, training: ArrayLike, *, first_image: int = 0, first_training: int = 0) -> "Nearest":
        """Search one block of training images for one block of images.

        Products are float32 in blocks; the nearest candidates are settled by float64 differences, so a copy has
        distance 0.

        Args:
            images: flattened images or features `(n, dim)`, n >= 1.
            training: the same of training images, `(m, dim)`, m >= 1.
            first_image: index of the first image in its set.
            first_training: index of the first training image in the split.

        Raises:
            ValueError: an empty block, different sizes of rows, NaN or infinity.
        """
        y, x = pairwise.prepared(
            pairwise.checked(training, "training images"), pairwise.checked(images, "compared images")
        )
        _, index = pairwise.candidates(x, y, min(1 + SPARE, len(y)))
        index = np.sort(index, axis=1)  # the first minimum below is the least index
        rows = np.repeat(np.arange(len(x)), index.shape[1])
        squared = pairwise.exact(x, y, (rows, index.ravel())).reshape(index.shape)
        at = squared.argmin(axis=1)[:, None]
        return cls(
            first_image + np.arange(len(x)),
            first_training + np.take_along_axis(index, at, axis=1)[:, 0],
            np.sqrt(np.take_along_axis(squared, at, axis=1)[:, 0]),
        )

    @classmethod
    def of_all(cls, parts: Sequence["Nearest"]) -> "Nearest":
        """The parts together, whatever blocks of images and of training images they are of, in any order: the nearest
        per image, in order of the images."""
        if not parts:
            raise ValueError("nothing to merge")
        image, index, distance = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "index", "distance")
        )
        order = np.lexsort((index, distance, image))
        image, index, distance = image[order], index[order], distance[order]
        is_first = np.concatenate([[True], image[1:] != image[:-1]])
        return cls(image[is_first], index[is_first], distance[is_first])

    @classmethod
    def unpacked(cls, arrays: Any) -> "Nearest":
        """Inverse of `packed`, from a loaded npz."""
        return cls(arrays["nearest_image"], arrays["nearest_index"], arrays["nearest_distance"])

    def packed(self) -> dict[str, NDArray[np.generic]]:
        """Arrays for an npz."""
        return {"nearest_image": self.image, "nearest_index": self.index, "nearest_distance": self.distance}


class Pair(NamedTuple):
    """A generated image and its nearest training image, by index, and their distance."""

    image: int
    training: int
    distance: float


@dataclass(frozen=True)
class Memorisation:
    """How near a set comes to the training images, in units of what held-out images do.

    Attributes:
        ratio: median distance of the generated images over that of the held-out ones; below 1 is nearer.
        ratio_se: its jackknife error over 20 blocks of either set.
        share: share of the generated images that are nearer than 1 % of the held-out ones are; 0.01 is expected.
        share_se: its jackknife error.
        num_copies: generated images that equal a training image exactly.
        pairs: the nearest pairs, for a sheet.
    """

    ratio: float
    ratio_se: float
    share: float
    share_se: float
    num_copies: int
    pairs: tuple[Pair, ...]


def memorisation(generated: Nearest, held_out: Nearest, *, num_pairs: int = NUM_PAIRS) -> Memorisation:
    """Compare the nearest training distances of generated and of held-out images.

    Args:
        generated: of the generated images, against the whole training split.
        held_out: of held-out images, against the same.
        num_pairs: pairs to list.

    Raises:
        ValueError: fewer than 20 images on a side, or most held-out images are copies of training images, so that
            there is nothing to compare with.
    """
    near, expected = generated.distance, held_out.distance
    if min(len(near), len(expected)) < NUM_BLOCKS:
        raise ValueError(
            f"memorisation needs {NUM_BLOCKS} images on both sides, found {len(near)} generated and "
            f"{len(expected)} held-out ones"
        )
    if np.median(expected) == 0.0:
        raise ValueError("most held-out images are copies of training images: nothing to compare with")
    order = np.lexsort((generated.image, near))[:num_pairs]
    pairs = tuple(Pair(int(generated.image[i]), int(generated.index[i]), float(near[i])) for i in order)
    return Memorisation(
        _ratio(near, expected),
        _jackknife_error(_ratio, near, expected),
        _share(near, expected),
        _jackknife_error(_share, near, expected),
        int((near == 0.0).sum()),
        pairs,
    )


def _ratio(near: Array, expected: Array) -> float:
    return float(np.median(near) / np.median(expected))


def _share(near: Array, expected: Array) -> float:
    return float((near < np.quantile(expected, QUANTILE)).mean())


def _jackknife_error(statistic: Any, near: Array, expected: Array) -> float:
    """Standard error of a statistic of two independent samples: variances of leaving out a block of either add up.

    Blocks, not single images: the error of a quantile by leaving out one value at a time does not converge.
    """
    variance = 0.0
    for side in range(2):
        samples = [near, expected]
        whole = samples[side]
        left_out: list[float] = []
        for block in np.array_split(np.arange(len(whole)), NUM_BLOCKS):
            samples[side] = np.delete(whole, block)
            left_out.append(statistic(*samples))
        variance += (NUM_BLOCKS - 1) * float(np.var(left_out))
    return float(np.sqrt(variance))
