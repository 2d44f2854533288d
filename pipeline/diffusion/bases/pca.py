"""Principal components of the data, all channels together."""

import torch
from torch import Tensor

from pipeline.diffusion.bases.base import Basis
from pipeline.diffusion.placement import Constant


class PcaBasis(Basis):
    """Rows of an orthonormal matrix; by falling variance when fitted by `Statistics`, as given otherwise.

    Args:
        shape: of one datum.
        components: `(dim, dim)` orthonormal rows, in the flattened (C, H, W) order.
    """

    name = "pca"

    def __init__(self, shape: tuple[int, ...], components: Tensor) -> None:
        self.shape = shape
        if components.shape != (self.dim, self.dim):
            raise ValueError(f"components must be ({self.dim}, {self.dim}), found {tuple(components.shape)}")
        self._components = Constant(components.to(torch.float64))

    def to_components(self, x: Tensor) -> Tensor:
        return x.reshape(self._rows(x), self.dim) @ self._components.on(x.device, x.dtype).T

    def to_data(self, c: Tensor) -> Tensor:
        return (c @ self._components.on(c.device, c.dtype)).reshape(c.shape[0], *self.shape)

    @property
    def frequency(self) -> Tensor:
        """Rank of the component, 0 for the first row."""
        return torch.arange(self.dim, dtype=torch.float64)

    def matrix(self) -> Tensor:
        return self._components.value.clone()
