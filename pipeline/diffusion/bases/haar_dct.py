"""Haar wavelets down to blocks that cannot be halved, and the DCT of those blocks' averages."""

from torch import Tensor

from pipeline.diffusion.bases.base import Basis
from pipeline.diffusion.bases.dct import DctBasis
from pipeline.diffusion.bases.haar import HaarBasis


class HaarDctBasis(Basis):
    """`haar`, its averages (top left) replaced by their DCT: a channel's first component is sqrt(H W) times its mean.

    28 x 28 images have 7 x 7 averages, 32 x 32 images one; an odd side leaves the DCT of the whole image.
    """

    name = "haar_dct"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._haar = HaarBasis(shape)
        self.num_halvings = self._haar.num_levels
        block = [shape[axis] >> self.num_halvings for axis in reversed(self._haar.axes)]
        self._averages = DctBasis((*shape[: len(shape) - len(block)], *block))

    def to_components(self, x: Tensor) -> Tensor:
        c = self._haar.to_components(x)
        corner = self._corner(c.reshape(-1, *self.shape))
        corner.copy_(self._averages.to_components(corner).reshape(corner.shape))
        return c

    def to_data(self, c: Tensor) -> Tensor:
        x = c.reshape(c.shape[0], *self.shape).clone()
        corner = self._corner(x)
        corner.copy_(self._averages.to_data(corner.reshape(c.shape[0], -1)))
        return self._haar.to_data(x.reshape(c.shape))

    def _corner(self, x: Tensor) -> Tensor:
        for axis in self._haar.axes:
            x = x.narrow(axis, 0, self.shape[axis] >> self.num_halvings)
        return x

    @property
    def level(self) -> Tensor:
        """0 for the mean, 1 for the rest of the averages (if there is any), then the differences, coarse to fine."""
        label = self._haar.level.reshape(self.shape)
        num_channels = self.shape[0] if len(self.shape) == 3 else 1
        if self._averages.dim > num_channels:
            label = label + 1
            label[(..., *[0] * len(self._haar.axes))] = 0.0
        return label.reshape(-1)
