"""Dropout whose masks are a function of (seed, step, position in the global batch, layer)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class MaskSource(Protocol):
    """Where masks come from; the draws of a training step are one."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1), `(batch, *shape)`; row i depends only on the key of example i and on `name`."""
        ...


class KeyedDropout(nn.Module):
    """Zeroes a share of the activations and rescales the rest; the identity in eval mode.

    The mask does not depend on how the global batch is split over workers or micro-batches.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.name = ""
        self.source: MaskSource | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x `(batch, ...)` of any shape."""
        if not self.training or self.probability == 0.0:
            return x
        if self.source is None:
            raise RuntimeError("dropout in training mode needs `with dropout_masks(network, draws)` around the call")
        uniform = self.source.uniform(f"dropout/{self.name}", tuple(x.shape[1:]))
        scale = (uniform >= self.probability).to(device=x.device, dtype=x.dtype) / (1.0 - self.probability)
        return x * scale

    def extra_repr(self) -> str:
        return f"probability={self.probability}, name={self.name!r}"


def _dropouts(network: nn.Module) -> Iterator[tuple[str, KeyedDropout]]:
    for name, module in network.named_modules():
        if isinstance(module, KeyedDropout):
            yield name, module


def name_dropouts(network: nn.Module) -> None:
    """Gives every dropout its path in `network`, the part of the key that tells layers apart."""
    for name, module in _dropouts(network):
        module.name = name


@contextmanager
def dropout_masks(network: nn.Module, source: MaskSource) -> Iterator[None]:
    """Inside the block the dropouts of `network` (wrapped for data parallelism or not) draw from `source`."""
    modules = [module for _, module in _dropouts(network)]
    for module in modules:
        module.source = source
    try:
        yield
    finally:
        for module in modules:
            module.source = None
