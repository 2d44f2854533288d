"""The data's own coordinates."""

import torch
from torch import Tensor

from pipeline.diffusion.bases.base import Basis


class PixelBasis(Basis):
    """Identity: component i is entry i of the flattened data."""

    name = "pixel"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def to_components(self, x: Tensor) -> Tensor:
        return x.reshape(self._rows(x), self.dim)

    def to_data(self, c: Tensor) -> Tensor:
        return c.reshape(c.shape[0], *self.shape)

    @property
    def frequency(self) -> Tensor | None:
        return torch.arange(self.dim, dtype=torch.float64) if len(self.shape) == 1 else None

    @property
    def column(self) -> Tensor:
        return self.per_channel(torch.arange(self.shape[-1]))

    @property
    def row(self) -> Tensor:
        height = self.shape[-2] if len(self.shape) == 3 else 1
        return self.per_channel(torch.arange(height)[:, None] if len(self.shape) == 3 else torch.zeros(1))
