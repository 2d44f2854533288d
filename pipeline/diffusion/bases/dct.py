"""Orthonormal discrete cosine transform (type II) of each channel."""

import math

import torch
from torch import Tensor

from pipeline.diffusion.bases.base import Basis
from pipeline.diffusion.placement import Constant


def cosine_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II (scipy's `norm="ortho"`) of a vector, `(size, size)` float64; row k has k/2 cycles."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / size * (index + 0.5) * index[:, None])
    matrix[0] /= math.sqrt(2)
    return matrix


class DctBasis(Basis):
    """DCT-II along the last axis of `(D,)` data or the last two of `(C, H, W)`, one small matrix per axis."""

    name = "dct"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._horizontal = Constant(cosine_matrix(shape[-1]))
        self._vertical = Constant(cosine_matrix(shape[-2])) if len(shape) == 3 else None

    def to_components(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        c = x @ self._horizontal.on(x.device, x.dtype).T
        if self._vertical is not None:
            c = self._vertical.on(x.device, x.dtype) @ c
        return c.reshape(rows, self.dim)

    def to_data(self, c: Tensor) -> Tensor:
        x = c.reshape(c.shape[0], *self.shape) @ self._horizontal.on(c.device, c.dtype)
        if self._vertical is not None:
            x = self._vertical.on(c.device, c.dtype).T @ x
        return x

    @property
    def frequency(self) -> Tensor:
        """sqrt(k_y^2 + k_x^2) of the integer indices (half cycles per image)."""
        horizontal = torch.arange(self.shape[-1], dtype=torch.float64)
        if len(self.shape) == 1:
            return horizontal
        vertical = torch.arange(self.shape[-2], dtype=torch.float64)
        return self.per_channel(torch.hypot(vertical[:, None], horizontal[None, :]))
