"""The gradient of one optimiser in one buffer, summed over chunks and workers so that the world size cannot change it.

The global batch is cut into a fixed number of chunks and each goes through the network by itself, on whichever worker
owns it; equal shapes give equal bits. The sum of two float32 numbers does not depend on their order; the sum of more
does, so it is taken in float64, where it is exact for chunk gradients within a factor 2^29 of each other. One flat
all-reduce carries the gradient and the flags by which all workers agree about the step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.train.group import Group
from pipeline.train.weights import FlatWeights

LOSS, FAILED, STOP, METRICS = range(4)
"""Slots behind the gradient: sum of the losses, number of workers that failed, number asked to stop, first metric."""
MAX_METRICS = 13
_NUM_SLOTS = METRICS + MAX_METRICS


def chunk_bounds(batch: int, chunks: int) -> list[tuple[int, int]]:
    """Positions [first, last) of every chunk of the global batch; sizes differ by one at most."""
    return [(k * batch // chunks, (k + 1) * batch // chunks) for k in range(chunks)]


def num_chunks(batch: int, chunks: int, group: Group) -> int:
    """Chunks of the global batch over all workers: `chunks`, but one per worker at least."""
    return min(max(chunks, group.size), batch)


def owned_chunks(batch: int, chunks: int, group: Group) -> list[tuple[int, int]]:
    """The consecutive chunks of this rank; none for some ranks if there are more workers than examples."""
    bounds = chunk_bounds(batch, num_chunks(batch, chunks, group))
    first, last = group.rank * len(bounds) // group.size, (group.rank + 1) * len(bounds) // group.size
    return bounds[first:last]


class FlatGradient:
    """The gradient of `FlatWeights` and the slots behind it, float32."""

    def __init__(self, weights: FlatWeights, *, num_chunks: int, group: Group) -> None:
        """`num_chunks`: chunks of the global batch over all workers."""
        self._group = group
        self._size = weights.num_padded
        self._flat = torch.zeros(self._size + _NUM_SLOTS, dtype=torch.float32, device=weights.flats[0].device)
        is_order_dependent = num_chunks > 2
        self._sum = torch.zeros_like(self._flat, dtype=torch.float64) if is_order_dependent else self._flat
        weights.set_gradient_(self.gradient)

    @property
    def gradient(self) -> Tensor:
        """`(num_padded,)` float32; after `reduce_` the gradient of the global batch."""
        return self._flat[: self._size]

    @torch.no_grad()
    def clear_(self) -> None:
        """Forget everything before the first chunk of a step."""
        self._flat.zero_()
        if self._sum is not self._flat:
            self._sum.zero_()

    @torch.no_grad()
    def add_chunk_(self, loss: Tensor, metrics: Mapping[str, Tensor]) -> None:
        """Take the gradient that `backward` has left in the buffer and the chunk's shares of loss and metrics (0-d)."""
        if len(metrics) > MAX_METRICS:
            raise ValueError(f"an objective may report {MAX_METRICS} metrics, found {len(metrics)}")
        shares = torch.stack([loss.detach().float(), *(metrics[name].detach().float() for name in sorted(metrics))])
        slots = self._flat[self._size :]
        slots[LOSS] += shares[0]
        slots[METRICS : METRICS + len(metrics)] += shares[1:]
        if self._sum is not self._flat:
            self._sum += self._flat
            self._flat.zero_()

    @torch.no_grad()
    def reduce_(self, *, failed: bool, stop: bool) -> Tensor:
        """Sum over the workers in place.

        Args:
            failed: this worker has no gradient to give; nothing of it is used and the step counts as non-finite.
            stop: this worker was asked to stop.

        Returns:
            `(16,)` float32 on the gradient's device: LOSS (the global mean), FAILED, STOP, then the metrics' means by
            name; valid until the next `clear_`.
        """
        if failed:
            self.clear_()
            self._sum[self._size + LOSS] = torch.nan
            self._sum[self._size + FAILED] = 1.0
        if stop:
            self._sum[self._size + STOP] = 1.0
        self._group.sum_(self._sum)
        if self._sum is not self._flat:
            self._flat.copy_(self._sum)
        return self._flat[self._size :]

    @torch.no_grad()
    def clip_(self, max_norm: float | None) -> Tensor:
        """Shorten the gradient to `max_norm`; its norm before, 0-d float32. Without a device sync."""
        norm = torch.linalg.vector_norm(self.gradient)
        if max_norm is not None:
            self.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
