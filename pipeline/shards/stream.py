"""Batches from shards that do not fit in memory, in an order that is a function of (seed, epoch) alone.

Order of an epoch: shards permuted, blocks permuted inside each shard, then consecutive blocks joined to windows whose
samples are permuted. Position p of step s is sample s * global_batch + p of the endless sequence of epochs, whatever
the number of workers; nothing is dropped at an epoch's end and seeking costs one window.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import DataError
from pipeline.diffusion.randomness import NoiseStream
from pipeline.shards.index import ShardEntry, ShardFiles, split_index
from pipeline.shards.npy import decode_npy
from pipeline.shards.reader import LabelledImages, joined
from pipeline.shards.tar import regular_members
from pipeline.shards.writer import block_key

WINDOW_BLOCKS = 16


def epoch_positions(
    step: int, positions: Sequence[int], *, global_batch: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Epoch and offset inside it, int64 `(n,)` each, of `positions` in the global batch of `step`.

    Args:
        step: zero-based training step.
        positions: places in the global batch, each in [0, global_batch).
        global_batch: samples per step over all workers.
        count: samples per epoch.
    """
    sequence = step * global_batch + np.asarray(positions, dtype=np.int64)
    return sequence // count, sequence % count


@dataclass(frozen=True)
class Block:
    """Samples [first_index, first_index + count) of the split, inside shard number `shard`."""

    shard: int
    first_index: int
    count: int


class StreamedBatches:
    """The samples of any step of a split, read window by window.

    Args:
        artifact: data set artifact.
        split: name of the split.
        seed: seed of the order.
        global_batch: samples per step over all workers.
        window_blocks: blocks that are mixed in memory at once (a worker holds two windows and reads a third ahead).
    """

    def __init__(
        self, artifact: ShardFiles, split: str, *, seed: int, global_batch: int, window_blocks: int = WINDOW_BLOCKS
    ) -> None:
        self.index = split_index(artifact, split)
        if self.index.count == 0:
            raise DataError(f"data set {artifact.meta['name']}: split {split} is empty")
        self._artifact, self._stream = artifact, NoiseStream(seed)
        self._global_batch, self._window_blocks = global_batch, window_blocks
        firsts = np.cumsum([0, *(entry.samples for entry in self.index.shards)])
        self._first_indices = [int(first) for first in firsts]
        self._offsets: dict[int, dict[str, tuple[int, int]]] = {}
        self._windows: OrderedDict[tuple[int, int], Future[LabelledImages]] = OrderedDict()
        self._orders: OrderedDict[int, tuple[list[Block], np.ndarray]] = OrderedDict()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-window")

    def batch(self, step: int, positions: Sequence[int]) -> LabelledImages:
        """The samples at `positions` of the global batch of `step`, in that order; any step may be asked for."""
        epochs, offsets = epoch_positions(step, positions, global_batch=self._global_batch, count=self.index.count)
        rows: list[LabelledImages] = []
        places: list[np.ndarray] = []
        for epoch in np.unique(epochs):
            _, ends = self._order(int(epoch))
            windows = np.searchsorted(ends, offsets, side="right")
            for window in np.unique(windows[epochs == epoch]):
                chosen = np.flatnonzero((epochs == epoch) & (windows == window))
                start = 0 if window == 0 else int(ends[window - 1])
                permutation = self._permutation(int(ends[window]) - start, int(epoch), f"samples/{window}")
                rows.append(self._window(int(epoch), int(window)).rows(permutation[offsets[chosen] - start]))
                places.append(chosen)
        order = np.argsort(np.concatenate(places), kind="stable")
        return joined(rows, self.index).rows(order)

    def close(self) -> None:
        """Stop reading ahead."""
        self._executor.shutdown(cancel_futures=True)

    def _order(self, epoch: int) -> tuple[list[Block], np.ndarray]:
        """Blocks of the epoch in order, and the end offset of each window."""
        if epoch not in self._orders:
            blocks: list[Block] = []
            for shard in self._permutation(len(self.index.shards), epoch, "shards"):
                inside = self._blocks(int(shard))
                blocks += [inside[i] for i in self._permutation(len(inside), epoch, f"blocks/{shard}")]
            counts = [block.count for block in blocks]
            sums = [sum(counts[i : i + self._window_blocks]) for i in range(0, len(counts), self._window_blocks)]
            self._orders[epoch] = blocks, np.cumsum(sums)
            while len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def _permutation(self, count: int, epoch: int, name: str) -> np.ndarray:
        return self._stream.permutation(count, epoch, f"stream/{name}").numpy()

    def _blocks(self, shard: int) -> list[Block]:
        size, samples = self.index.samples_per_block, self.index.shards[shard].samples
        first = self._first_indices[shard]
        return [Block(shard, first + start, min(size, samples - start)) for start in range(0, samples, size)]

    def _window(self, epoch: int, window: int) -> LabelledImages:
        future = self._scheduled(epoch, window)
        _, ends = self._order(epoch)
        following = (epoch, window + 1) if window + 1 < len(ends) else (epoch + 1, 0)
        result = future.result()
        self._scheduled(*following)
        return result

    def _scheduled(self, epoch: int, window: int) -> "Future[LabelledImages]":
        key = (epoch, window)
        if key not in self._windows:
            blocks, _ = self._order(epoch)
            part = blocks[window * self._window_blocks : (window + 1) * self._window_blocks]
            self._windows[key] = self._executor.submit(self._read, part)
        self._windows.move_to_end(key)
        while len(self._windows) > 3:
            self._windows.popitem(last=False)
        return self._windows[key]

    def _read(self, blocks: list[Block]) -> LabelledImages:
        return joined([self._read_block(block) for block in blocks], self.index)

    def _read_block(self, block: Block) -> LabelledImages:
        entry = self.index.shards[block.shard]
        path = self._artifact.path(entry.name)
        if block.shard not in self._offsets:
            self._offsets[block.shard] = _verified_offsets(path, entry)
        key, offsets = block_key(self.index.split, block.first_index), self._offsets[block.shard]
        arrays: dict[str, np.ndarray] = {}
        with path.open("rb") as file:
            for part in ("x", "y", "index"):
                place = offsets.get(f"{key}.{part}.npy")
                if place is not None:
                    file.seek(place[0])
                    arrays[part] = decode_npy(file.read(place[1]), f"shard {path}: {key}.{part}.npy")
        if any(part not in arrays or len(arrays[part]) != block.count for part in ("x", "index")):
            raise DataError(f"shard {path}: block {key} does not hold {block.count} samples")
        return LabelledImages(arrays["x"], arrays.get("y"), arrays["index"])


def _verified_offsets(path: Path, entry: ShardEntry) -> dict[str, tuple[int, int]]:
    """Offset and size of every member of a shard whose size and digest are the index's."""
    if path.stat().st_size != entry.bytes:
        raise DataError(f"shard {path}: {path.stat().st_size} bytes, the index says {entry.bytes}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise DataError(f"shard {path}: its sha256 is not the index's; it is damaged, delete it and ingest again")
        file.seek(0)
        return {m.name: (m.offset, m.size) for m in regular_members(file, str(path), total_bytes=entry.bytes)}
