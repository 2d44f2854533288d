"""Real orthonormal Fourier basis (cosines and sines) of each channel."""

import math

import torch
from torch import Tensor

from pipeline.diffusion.bases.base import Basis
from pipeline.diffusion.placement import Constant


class FourierBasis(Basis):
    """With F the orthonormal FFT, the entry at frequency k holds Re F(k) where k = -k, sqrt(2) Re F(k) for one of each
    pair (k, -k) and sqrt(2) Im F(k) of that one at the position of the other: dim real numbers stay dim real numbers.

    The first of a pair is the one that comes first in row-major order.
    """

    name = "fourier"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.axes = (-1,) if len(shape) == 1 else (-2, -1)
        sizes = [shape[axis] for axis in self.axes]
        index = torch.arange(math.prod(sizes)).reshape(sizes)
        partner = self._mirrored(index)
        self._is_own_partner = Constant(index == partner)
        self._is_cosine = Constant(index <= partner)

    def to_components(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        spectrum = torch.fft.fftn(_transformable(x), dim=self.axes, norm="ortho")
        is_cosine = self._is_cosine.on(x.device)
        # Im F(-k) = -Im F(k): the sine coefficient of the pair is read off at its own position.
        pair = math.sqrt(2) * torch.where(is_cosine, spectrum.real, -spectrum.imag)
        c = torch.where(self._is_own_partner.on(x.device), spectrum.real, pair)
        return c.to(x.dtype).reshape(rows, self.dim)

    def to_data(self, c: Tensor) -> Tensor:
        own = _transformable(c).reshape(c.shape[0], *self.shape)
        other = self._mirrored(own)
        is_cosine, is_own_partner = self._is_cosine.on(c.device), self._is_own_partner.on(c.device)
        real = torch.where(is_own_partner, own, torch.where(is_cosine, own, other) / math.sqrt(2))
        imaginary = torch.where(is_cosine, other, -own) / math.sqrt(2)
        imaginary = torch.where(is_own_partner, torch.zeros_like(own), imaginary)
        x = torch.fft.ifftn(torch.complex(real, imaginary), dim=self.axes, norm="ortho").real
        return x.to(c.dtype)

    def _mirrored(self, values: Tensor) -> Tensor:
        """The entry at -k for every k."""
        return values.flip(self.axes).roll([1] * len(self.axes), self.axes)

    @property
    def frequency(self) -> Tensor:
        """|k| in cycles per image."""
        cycles = [torch.fft.fftfreq(self.shape[axis], dtype=torch.float64) * self.shape[axis] for axis in self.axes]
        if len(cycles) == 1:
            return cycles[0].abs()
        return self.per_channel(torch.hypot(cycles[0][:, None], cycles[1][None, :]))


def _transformable(x: Tensor) -> Tensor:
    """Half precision has no FFT on every device: transform it in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)
