"""The index of a data set artifact: which shards a split has, how many samples, bytes and which digest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import DataError


class ShardFiles(Protocol):
    """What reading needs of an artifact: its meta and its files by name."""

    @property
    def meta(self) -> Mapping[str, Any]: ...

    def path(self, name: str) -> Path: ...


@dataclass(frozen=True)
class ShardEntry:
    """One line of the index."""

    name: str
    samples: int
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SplitIndex:
    """The shards of one split, in order; sample i of the split lies in the shard that covers i."""

    split: str
    shape: tuple[int, ...]
    quantisation: int | None
    num_classes: int | None
    samples_per_block: int
    shards: tuple[ShardEntry, ...]

    @property
    def count(self) -> int:
        """Number of samples in the split."""
        return sum(entry.samples for entry in self.shards)


def split_index(artifact: ShardFiles, split: str) -> SplitIndex:
    """The index of `split` from the artifact's meta.

    Raises:
        DataError: the split does not exist, or counts contradict each other.
    """
    meta = artifact.meta
    if split not in meta["splits"]:
        raise DataError(f"data set {meta['name']}: no split {split!r}; it has {', '.join(sorted(meta['splits']))}")
    described = meta["splits"][split]
    entries = tuple(
        ShardEntry(str(e["name"]), int(e["samples"]), int(e["bytes"]), str(e["sha256"])) for e in described["shards"]
    )
    index = SplitIndex(
        split=split,
        shape=tuple(int(size) for size in meta["shape"]),
        quantisation=meta["quantisation"],
        num_classes=meta["num_classes"],
        samples_per_block=int(meta["samples_per_block"]),
        shards=entries,
    )
    if index.count != described["count"]:
        raise DataError(
            f"data set {meta['name']}: split {split} counts {described['count']} samples, its shards {index.count}"
        )
    return index
