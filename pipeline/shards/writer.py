"""Arrays into webdataset shards of npy blocks; equal input gives equal bytes (ustar, mtime 0, names by our counter)."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.shards.index import ShardEntry
from pipeline.shards.npy import encode_npy
from pipeline.shards.tar import member_header, padding

SAMPLES_PER_BLOCK = 512
SAMPLES_PER_SHARD = 8192
_END = bytes(1024)


def shard_name(split: str, number: int) -> str:
    """File name of a shard: split and running number."""
    return f"{split}-{number:06d}.tar"


def block_key(split: str, first_index: int) -> str:
    """webdataset key of a block, without dots: split and position of its first sample in the split."""
    return f"{split}-{first_index:010d}"


def encode_shard(
    images: np.ndarray,
    labels: np.ndarray | None,
    *,
    split: str,
    number: int,
    first_index: int,
    samples_per_block: int = SAMPLES_PER_BLOCK,
) -> tuple[ShardEntry, bytes]:
    """One shard and its line of the index.

    Args:
        images: levels, uint8 `(n, C, H, W)`, or points, float32 `(n, D)`.
        labels: int64 `(n,)`, or None.
        split: name of the split, part of every name.
        number: running number of the shard in its split.
        first_index: position of the shard's first sample in the split.
        samples_per_block: samples per npy member, the last block may be shorter.
    """
    if images.dtype not in (np.dtype(np.uint8), np.dtype(np.float32)) or len(images) == 0:
        raise ValueError(f"a shard holds uint8 or float32 samples, found {len(images)} of {images.dtype}")
    if labels is not None and labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images need {len(images)} labels, found shape {labels.shape}")
    parts: list[bytes] = []
    for start in range(0, len(images), samples_per_block):
        stop = min(start + samples_per_block, len(images))
        key = block_key(split, first_index + start)
        members = {"index": np.arange(first_index + start, first_index + stop, dtype=np.int64), "x": images[start:stop]}
        if labels is not None:
            members["y"] = labels[start:stop].astype(np.int64)
        for extension, array in sorted(members.items()):
            payload = encode_npy(array)
            parts += [member_header(f"{key}.{extension}.npy", len(payload)), payload, padding(len(payload))]
    parts.append(_END)
    payload = b"".join(parts)
    digest = hashlib.sha256(payload).hexdigest()
    return ShardEntry(shard_name(split, number), len(images), len(payload), digest), payload


class ShardWriter:
    """Collects samples of one split and writes whole shards.

    Args:
        path: gives the file to write for a shard's name, for example `attempt.path`.
        split: name of the split.
        samples_per_shard: samples per shard, a multiple of `samples_per_block`; the last shard may be shorter.
        samples_per_block: samples per npy member.
    """

    def __init__(
        self,
        path: Callable[[str], Path],
        split: str,
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        samples_per_block: int = SAMPLES_PER_BLOCK,
    ) -> None:
        if samples_per_shard % samples_per_block:
            raise ValueError(f"{samples_per_shard} samples per shard are not whole blocks of {samples_per_block}")
        self.entries: list[ShardEntry] = []
        self._path, self._split = path, split
        self._samples_per_shard, self._samples_per_block = samples_per_shard, samples_per_block
        self._images: list[np.ndarray] = []
        self._labels: list[np.ndarray | None] = []
        self._pending = 0
        self._written = 0

    def write(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Append samples `(n, ...)`; full shards go to disk at once."""
        while len(images):
            taken = min(len(images), self._samples_per_shard - self._pending)
            self._images.append(images[:taken])
            self._labels.append(None if labels is None else labels[:taken])
            self._pending += taken
            images, labels = images[taken:], None if labels is None else labels[taken:]
            if self._pending == self._samples_per_shard:
                self._flush()

    def close(self) -> None:
        """Write the last, shorter shard."""
        if self._pending:
            self._flush()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _flush(self) -> None:
        present = [part for part in self._labels if part is not None]
        if present and len(present) != len(self._labels):
            raise ValueError(f"split {self._split}: some samples have labels and some have none")
        entry, payload = encode_shard(
            np.concatenate(self._images),
            np.concatenate(present) if present else None,
            split=self._split,
            number=len(self.entries),
            first_index=self._written,
            samples_per_block=self._samples_per_block,
        )
        self._path(entry.name).write_bytes(payload)
        self.entries.append(entry)
        self._written += self._pending
        self._images, self._labels, self._pending = [], [], 0
