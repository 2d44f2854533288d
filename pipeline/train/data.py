"""Training batches: from arrays that stay resident (on the GPU if there is one) or streamed from shards.

Which sample stands at a position of the global batch, its flip and its dequantisation noise are functions of
(seed, step, position) alone. Every epoch is a new permutation of all samples; nothing is dropped at its end.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.objectives.base import Batch, Draws
from pipeline.diffusion.randomness import NoiseStream
from pipeline.shards import (
    LabelledImages,
    ShardFiles,
    StreamedBatches,
    dequantise,
    epoch_positions,
    read_split,
    split_index,
    to_float,
)
from pipeline.train.spec import TrainSpec

_SPLIT = "train"


class TrainingData(Protocol):
    """What the loop needs of a data set.

    Attributes:
        asks_store: whether a batch may have to wait for the store.
    """

    asks_store: bool

    def batch(self, draws: Draws) -> Batch:
        """The samples at the positions and step of `draws`, on its device, augmented."""
        ...


class ResidentData:
    """All samples in memory, as stored (uint8 levels or float32 points)."""

    asks_store = False

    def __init__(
        self,
        samples: LabelledImages,
        *,
        quantisation: int | None,
        stream: NoiseStream,
        spec: TrainSpec,
        device: torch.device,
    ) -> None:
        self._images = torch.from_numpy(np.array(samples.images)).to(device)
        self._labels = None if samples.labels is None else torch.from_numpy(np.array(samples.labels)).to(device)
        self._quantisation, self._stream, self._spec = quantisation, stream, spec
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, draws: Draws) -> Batch:
        """The samples of `draws.positions`."""
        count = len(self._images)
        epochs, offsets = epoch_positions(draws.step, draws.positions, global_batch=draws.global_batch, count=count)
        rows = np.empty(len(offsets), dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._order(int(epoch))[offsets[chosen]]
        places = torch.from_numpy(rows).to(self._images.device, non_blocking=True)
        labels = None if self._labels is None else self._labels.index_select(0, places)
        images = self._images.index_select(0, places)
        return augmented(images, labels, quantisation=self._quantisation, draws=draws, spec=self._spec)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {old: order for old, order in self._orders.items() if old >= epoch - 1}
            self._orders[epoch] = np.asarray(self._stream.permutation(len(self._images), epoch, "data"))
        return self._orders[epoch]


class StreamedData:
    """Samples read from shards window by window, for data that do not fit `data_memory_bytes`."""

    asks_store = True

    def __init__(self, batches: StreamedBatches, *, spec: TrainSpec, device: torch.device) -> None:
        self._batches, self._spec, self._device = batches, spec, device

    def batch(self, draws: Draws) -> Batch:
        """The samples of `draws.positions`."""
        samples = self._batches.batch(draws.step, draws.positions)
        images = torch.from_numpy(np.array(samples.images)).to(self._device)
        labels = None if samples.labels is None else torch.from_numpy(np.array(samples.labels)).to(self._device)
        return augmented(images, labels, quantisation=self._batches.index.quantisation, draws=draws, spec=self._spec)


def augmented(
    images: Tensor, labels: Tensor | None, *, quantisation: int | None, draws: Draws, spec: TrainSpec
) -> Batch:
    """Stored samples `(batch, *shape)` as floats in [-1, 1], dequantised and flipped as `spec` says."""
    if spec.dequantise and quantisation is not None:
        uniform = draws.uniform("dequantise", tuple(images.shape[1:])).to(images.device)
        x_0 = dequantise(images, quantisation, uniform)
    else:
        x_0 = to_float(images, quantisation)
    if spec.flips and x_0.dim() == 4:
        is_flipped = draws.uniform("flip", ()).to(images.device) < 0.5
        x_0 = torch.where(is_flipped[:, None, None, None], x_0.flip(-1), x_0)
    return Batch(x_0=x_0, label=labels, positions=draws.positions, global_batch=draws.global_batch)


def open_data(
    dataset: ShardFiles, spec: TrainSpec, *, stream: NoiseStream, seed: int, device: torch.device
) -> TrainingData:
    """The training split of a data set artifact: resident if its samples fit `spec.data_memory_bytes`."""
    index = split_index(dataset, _SPLIT)
    item_bytes = 4 if index.quantisation is None else 1
    if index.count * int(np.prod(index.shape)) * item_bytes > spec.data_memory_bytes:
        batches = StreamedBatches(dataset, _SPLIT, seed=seed, global_batch=spec.batch)
        return StreamedData(batches, spec=spec, device=device)
    samples = read_split(dataset, _SPLIT)
    return ResidentData(samples, quantisation=index.quantisation, stream=stream, spec=spec, device=device)
