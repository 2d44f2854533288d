"""Feature blocks joined to the feature set of all images of a row, or of a split of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataError
from pipeline.evaluate.diversity import Diversity
from pipeline.evaluate.statistics import FLOAT32_ROWS, FeatureStatistics
from pipeline.store import Artifact

COMPARABLE = ("net", "net_sha256", "preprocessing", "dataset")
"""What two sets must have in common before there is a distance between them."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of one set of images, blocks joined in order of their image indices.

    Attributes:
        meta: what `COMPARABLE` names.
        rows: `(n, dim)` float32.
        index: `(n,)` of the images in their set, or in the split they were read from in another order.
        labels: `(n,)` classes the images were made for, or have in the data set; None where they have none.
        logits: `(n, classes)` of the net, None where it predicts none or they were not kept.
        diversity: counts of the whole set.
        source: where the images came from.
        mixture: law of the data set's points, None where it is not a known mixture.
    """

    meta: Mapping[str, str]
    rows: NDArray[np.float32]
    index: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    logits: NDArray[np.float32] | None
    diversity: Diversity
    source: Mapping[str, Any]
    mixture: Mapping[str, Any] | None = None

    @property
    def net(self) -> str:
        return self.meta["net"]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.rows)

    def statistics(self) -> FeatureStatistics:
        """Moments of all rows."""
        return FeatureStatistics.of(self.rows)

    def ranges(self, num_ranges: int) -> list[FeatureStatistics]:
        """Moments of `num_ranges` <= n ranges of consecutive images whose sizes differ by one at most."""
        bounds = [self.n * k // num_ranges for k in range(num_ranges + 1)]
        method = "float32" if self.n > FLOAT32_ROWS else "float64"
        return [FeatureStatistics.of(self.rows[lo:hi], method=method) for lo, hi in pairwise(bounds)]


def joined(blocks: Sequence[Artifact], *, is_whole: bool = True) -> FeatureSet:
    """Feature blocks as one set in order of image indices; empty blocks are left out.

    Args:
        blocks: in any order.
        is_whole: the first image of the set must be among them.

    Raises:
        DataError: blocks of different nets or data sets, image ranges that overlap or leave gaps, or no image at all.
    """
    blocks = sorted(blocks, key=lambda block: int(block.meta["first"]))
    metas = {tuple(str(block.meta[name]) for name in COMPARABLE) for block in blocks}
    if len(metas) != 1:
        raise DataError(f"feature blocks come from {len(metas)} different nets or data sets and cannot be joined")
    parts: dict[str, list[NDArray[Any]]] = {"features": [], "index": [], "labels": [], "logits": []}
    diversity: list[Diversity] = []
    expected = int(blocks[0].meta["first"])
    if is_whole and expected != 0:
        raise DataError(f"feature blocks do not join: images 0 to {expected - 1} are missing")
    for block in blocks:
        count, first = int(block.meta["count"]), int(block.meta["first"])
        if count == 0:
            continue
        if first != expected:
            raise DataError(f"feature blocks do not join: images {expected} to {first - 1} are missing or doubled")
        expected = first + count
        with np.load(block.path("features.npz"), allow_pickle=False) as stored:
            for name, found in parts.items():
                if name in stored.files:
                    found.append(stored[name])
            diversity.append(Diversity.unpacked(stored))
    if not diversity:
        raise DataError("the feature blocks hold no images")
    (meta,) = metas
    whole = {name: np.concatenate(found) if len(found) == len(diversity) else None for name, found in parts.items()}
    rows, index = whole["features"], whole["index"]
    assert rows is not None
    assert index is not None
    return FeatureSet(
        dict(zip(COMPARABLE, meta, strict=True)),
        rows,
        index,
        whole["labels"],
        whole["logits"],
        Diversity.joined(diversity),
        dict(blocks[0].meta["source"]),
        blocks[0].meta.get("mixture"),
    )


def check_comparable(fake: FeatureSet, reference: FeatureSet) -> None:
    """Two sets have a distance only in the features of one net, one preprocessing and one data set.

    Raises:
        DataError: they differ in one of them.
    """
    for name in COMPARABLE:
        if fake.meta[name] != reference.meta[name]:
            raise DataError(
                f"features of {fake.net} have no distance to this reference: {name} is {fake.meta[name]}, of the "
                f"reference {reference.meta[name]}; compute both with the same net and data set"
            )
