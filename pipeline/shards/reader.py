"""Shards back into arrays; size, digest, names and counts are all checked, nothing is skipped."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import DataError
from pipeline.shards.index import ShardEntry, ShardFiles, SplitIndex, split_index
from pipeline.shards.npy import decode_npy
from pipeline.shards.tar import regular_members
from pipeline.shards.writer import block_key


@dataclass(frozen=True)
class LabelledImages:
    """Samples in memory.

    Images are uint8 levels `(n, C, H, W)` or float32 points `(n, D)`; labels int64 `(n,)` or None; index int64 `(n,)`.
    """

    images: np.ndarray
    labels: np.ndarray | None
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, positions: np.ndarray | slice) -> "LabelledImages":
        """The samples at `positions`."""
        labels = None if self.labels is None else self.labels[positions]
        return LabelledImages(self.images[positions], labels, self.index[positions])


def read_split(artifact: ShardFiles, split: str, *, max_samples: int | None = None) -> LabelledImages:
    """All samples of a split, or the first `max_samples`, in one contiguous array.

    Raises:
        DataError: a shard is missing, has another size or digest, or holds other samples than the index says.
    """
    index = split_index(artifact, split)
    total = index.count if max_samples is None else min(index.count, max_samples)
    shards: list[LabelledImages] = []
    first = 0
    for entry in index.shards:
        if first >= total:
            break
        shard = read_shard(artifact.path(entry.name), entry, index=index, first_index=first)
        shards.append(shard.rows(slice(0, total - first)))
        first += entry.samples
    return joined(shards, index)


def joined(parts: list[LabelledImages], index: SplitIndex) -> LabelledImages:
    """Parts of one split in one array, in the given order."""
    if not parts:
        dtype = np.float32 if index.quantisation is None else np.uint8
        return LabelledImages(np.zeros((0, *index.shape), dtype), None, np.zeros(0, np.int64))
    labels = [part.labels for part in parts if part.labels is not None]
    return LabelledImages(
        np.concatenate([part.images for part in parts]),
        np.concatenate(labels) if labels else None,
        np.concatenate([part.index for part in parts]),
    )


def read_shard(path: Path, entry: ShardEntry, *, index: SplitIndex, first_index: int) -> LabelledImages:
    """One verified shard.

    Args:
        path: local file.
        entry: its line of the index.
        index: the split that it belongs to.
        first_index: position of its first sample in the split.

    Raises:
        DataError: as `read_split`.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read ({error.strerror}); run `verify` on the store") from None
    if len(payload) != entry.bytes:
        raise DataError(f"shard {path}: {len(payload)} bytes, the index says {entry.bytes}; delete it and ingest again")
    if hashlib.sha256(payload).hexdigest() != entry.sha256:
        raise DataError(f"shard {path}: its sha256 is not the index's; it is damaged, delete it and ingest again")
    blocks: list[LabelledImages] = []
    members = _members(payload, str(path), entry=entry, samples_per_block=index.samples_per_block)
    for start in range(0, entry.samples, index.samples_per_block):
        count = min(index.samples_per_block, entry.samples - start)
        blocks.append(_block(members, f"shard {path}", index=index, first_index=first_index + start, count=count))
    if members:
        raise DataError(f"shard {path}: unexpected member {next(iter(members))!a}")
    return joined(blocks, index)


def _members(payload: bytes, where: str, *, entry: ShardEntry, samples_per_block: int) -> dict[str, memoryview]:
    num_blocks = -(-entry.samples // samples_per_block)
    listed = regular_members(io.BytesIO(payload), where, total_bytes=len(payload), max_members=3 * num_blocks)
    view = memoryview(payload)
    return {member.name: view[member.offset : member.offset + member.size] for member in listed}


def _block(
    members: dict[str, memoryview], where: str, *, index: SplitIndex, first_index: int, count: int
) -> LabelledImages:
    key = block_key(index.split, first_index)
    arrays: dict[str, np.ndarray] = {}
    for part in ("x", "y", "index"):
        payload = members.pop(f"{key}.{part}.npy", None)
        if payload is not None:
            arrays[part] = decode_npy(payload, f"{where}: {key}.{part}.npy")
        elif part != "y" or index.num_classes is not None:
            raise DataError(f"{where}: member {key}.{part}.npy is missing")
    dtype = np.float32 if index.quantisation is None else np.uint8
    images, labels = arrays["x"], arrays.get("y")
    if images.dtype != dtype or images.shape != (count, *index.shape):
        expected = f"{np.dtype(dtype)} {(count, *index.shape)}"
        raise DataError(f"{where}: {key}.x.npy holds {images.dtype} {images.shape}, the index says {expected}")
    if labels is not None and (labels.dtype != np.int64 or labels.shape != (count,)):
        raise DataError(f"{where}: {key}.y.npy holds {labels.dtype} {labels.shape}, not {count} int64 labels")
    if not np.array_equal(arrays["index"], np.arange(first_index, first_index + count)):
        raise DataError(f"{where}: {key}.index.npy does not count from {first_index} to {first_index + count - 1}")
    return LabelledImages(images, labels, arrays["index"].astype(np.int64, copy=False))
