"""Orthonormal Haar wavelets of each channel, packed like `pywt.coeffs_to_array`."""

import torch
from torch import Tensor

from pipeline.diffusion.bases.base import Basis


def num_halvings(size: int) -> int:
    """How often `size` can be halved: the exponent of the largest power of two dividing it."""
    return (size & -size).bit_length() - 1


class HaarBasis(Basis):
    """Haar transform with as many levels as the largest power of two that divides every transformed side.

    Of a block `(h, w)` each level keeps averages top left, vertical differences (cH) bottom left, horizontal
    differences (cV) top right and diagonal ones (cD) bottom right, and goes on with the averages. A side that is odd
    gives no level: the transform is then the identity. `(D,)` data are packed `[LL | coarsest | ... | finest]`.
    """

    name = "haar"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.axes = (-1,) if len(shape) == 1 else (-1, -2)
        self.num_levels = min(num_halvings(shape[axis]) for axis in self.axes)

    def to_components(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        c = x.clone()
        for halving in range(self.num_levels):
            block = self._corner(c, halving)
            block.copy_(self._split(block))
        return c.reshape(rows, self.dim)

    def to_data(self, c: Tensor) -> Tensor:
        x = c.reshape(c.shape[0], *self.shape).clone()
        for halving in reversed(range(self.num_levels)):
            block = self._corner(x, halving)
            block.copy_(self._join(block))
        return x

    def _corner(self, x: Tensor, halving: int) -> Tensor:
        for axis in self.axes:
            x = x.narrow(axis, 0, self.shape[axis] >> halving)
        return x

    def _split(self, block: Tensor) -> Tensor:
        """One level along every axis: [averages | differences], orthonormal."""
        for axis in self.axes:
            even, odd = block.unflatten(axis, (-1, 2)).unbind(axis)
            block = torch.cat([even + odd, even - odd], dim=axis)
        return block * 0.5 ** (len(self.axes) / 2)

    def _join(self, block: Tensor) -> Tensor:
        for axis in self.axes:
            average, difference = block.chunk(2, dim=axis)
            block = torch.stack([average + difference, average - difference], dim=axis).flatten(axis - 1, axis)
        return block * 0.5 ** (len(self.axes) / 2)

    @property
    def level(self) -> Tensor:
        """0 for the coarsest averages, then 1 (coarsest differences) ... num_levels (finest)."""
        label = torch.full(self.shape, float(self.num_levels), dtype=torch.float64)
        for halving in range(1, self.num_levels + 1):
            self._corner(label, halving).fill_(self.num_levels - halving)
        return label.reshape(-1)

    @property
    def column(self) -> Tensor:
        return self.per_channel(self._position(-1))

    @property
    def row(self) -> Tensor:
        if len(self.shape) == 1:
            return torch.zeros(self.dim, dtype=torch.float64)
        return self.per_channel(self._position(-2))

    def _position(self, axis: int) -> Tensor:
        """Position along `axis` inside the coefficient's own sub-band."""
        index = torch.arange(self.shape[axis]).reshape(-1, *[1] * (-1 - axis)).expand(self.shape).clone()
        level = self.level.reshape(self.shape)
        coarsest = self.shape[axis] >> self.num_levels
        width = coarsest * 2.0 ** (level - 1).clamp(min=0)
        return torch.remainder(index, width)
