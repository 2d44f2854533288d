"""Grey and two directions of colour for each pixel."""

import torch
from torch import Tensor

from pipeline.diffusion.bases.base import Basis
from pipeline.diffusion.bases.dct import cosine_matrix
from pipeline.diffusion.placement import Constant


class ColourBasis(Basis):
    """Orthonormal rotation of the channels: grey (r+g+b)/sqrt 3, then (r-b)/sqrt 2 and (r-2g+b)/sqrt 6.

    It is the DCT along the channels, so other numbers of channels also have their mean first; one channel, and `(D,)`
    data, stay as they are.
    """

    name = "colour"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.num_channels = shape[0] if len(shape) == 3 else 1
        self._rotation = Constant(cosine_matrix(self.num_channels))

    def to_components(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        channels = x.reshape(rows, self.num_channels, -1)
        return (self._rotation.on(x.device, x.dtype) @ channels).reshape(rows, self.dim)

    def to_data(self, c: Tensor) -> Tensor:
        channels = c.reshape(c.shape[0], self.num_channels, -1)
        return (self._rotation.on(c.device, c.dtype).T @ channels).reshape(c.shape[0], *self.shape)

    @property
    def level(self) -> Tensor:
        """0 for grey, 1 for colour."""
        is_colour = (torch.arange(self.num_channels) > 0).to(torch.float64)
        return is_colour[:, None].expand(-1, self.dim // self.num_channels).reshape(-1)
