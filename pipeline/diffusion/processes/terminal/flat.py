"""Terminal distributions without an image in them: the centre, and flat colours."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, model_validator
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.processes.terminal.base import Forward, TerminalSpec, TrainingImages, with_noise
from pipeline.diffusion.randomness import NoiseStream

_ROUNDING = 1e-9  # negative eigenvalues of a covariance down to this are rounding


class ZerosSpec(TerminalSpec):
    """x_T is the centre of the process (black, or mid-grey) for every image."""

    kind: Literal["zeros"] = "zeros"
    noise: NonNegativeFloat = 0.0  # symmetry-breaking noise, on the [-1, 1] scale

    def build(self, process: Forward, images: TrainingImages | None = None) -> "ZerosTerminal":
        return ZerosTerminal(process, self.noise)


class ZerosTerminal:
    """Components 0, plus noise: where fades end."""

    def __init__(self, process: Forward, noise: float) -> None:
        self.process, self.noise = process, noise

    def draw(self, image_indices: Sequence[int], seed: int) -> Float[Tensor, "batch *shape"]:
        x = self.process.to_data(torch.zeros(len(image_indices), self.process.dim, dtype=torch.float64))
        return with_noise(x, image_indices, seed, self.noise)

    def relative_entropy(self, c: Float[Tensor, "batch dim"], sigma: float, delta: float) -> Float[Tensor, "batch"]:
        """KL(N(c, sigma^2) || N(0, delta^2)), exact."""
        return isotropic_relative_entropy(c.square().sum(1), c.shape[1], sigma, delta)


class FlatColourSpec(TerminalSpec):
    """x_T is one colour per image, from a Gaussian fitted to the fully degraded training images."""

    kind: Literal["flat_colour"] = "flat_colour"
    mean: tuple[float, ...]  # (C,), one colour channel each; one number for data without channels
    covariance: tuple[tuple[float, ...], ...]  # (C, C)
    noise: NonNegativeFloat = 0.0  # symmetry-breaking noise, on the [-1, 1] scale

    @model_validator(mode="after")
    def _is_covariance(self) -> "FlatColourSpec":
        size = len(self.mean)
        if len(self.covariance) != size or any(len(row) != size for row in self.covariance):
            raise ValueError(f"covariance must be {size} x {size}, like the mean of {size} channels")
        matrix = torch.tensor(self.covariance, dtype=torch.float64)
        if not torch.allclose(matrix, matrix.T, rtol=0, atol=_ROUNDING):
            raise ValueError("covariance must be symmetric")
        if float(torch.linalg.eigvalsh(matrix).min()) < -_ROUNDING:
            raise ValueError("covariance must not have negative eigenvalues")
        return self

    def build(self, process: Forward, images: TrainingImages | None = None) -> "FlatColourTerminal":
        """The distribution.

        Raises:
            ConfigError: the data have another number of channels.
        """
        channels = num_channels(process.shape)
        if len(self.mean) != channels:
            raise ConfigError(f"terminal: a flat colour of {channels} channels expected, found {len(self.mean)}")
        mean, covariance = (torch.tensor(part, dtype=torch.float64) for part in (self.mean, self.covariance))
        return FlatColourTerminal(process, mean, covariance, self.noise)


class FlatColourTerminal:
    """The same colour N(mean, covariance) at every pixel, plus noise.

    Args:
        process: says the shape of the data; data `(D,)` count as one channel.
        mean: `(C,)` float64, data space.
        covariance: `(C, C)` float64; may be singular.
        noise: standard deviation of the noise of a pixel.
    """

    def __init__(self, process: Forward, mean: Tensor, covariance: Tensor, noise: float) -> None:
        self.process, self.mean, self.covariance, self.noise = process, mean, covariance, noise
        values, vectors = torch.linalg.eigh(covariance)
        self.root = vectors * values.clamp(min=0.0).sqrt() @ vectors.T

    def draw(self, image_indices: Sequence[int], seed: int) -> Float[Tensor, "batch *shape"]:
        shape, channels = self.process.shape, len(self.mean)
        unit = NoiseStream(seed).normal(image_indices, 0, "colour", (channels,), torch.float64)
        colours = self.mean + (unit[:, None, :] * self.root).sum(2)  # no product of matrices: it rounds by batch size
        x = colours[:, :, None].expand(-1, -1, self.process.dim // channels).reshape(-1, *shape)
        return with_noise(x, image_indices, seed, self.noise)

    def relative_entropy(self, c: Float[Tensor, "batch dim"], sigma: float, delta: float) -> Float[Tensor, "batch"]:
        """KL(N(c, sigma^2) || flat colour + N(0, delta^2)), exact.

        The normalised sums of the P pixels of each channel have covariance S = P covariance + delta^2 under the prior,
        everything orthogonal to them delta^2.
        """
        channels, dim = len(self.mean), self.process.dim
        pixels = dim // channels
        x = self.process.to_data(c.to(torch.float64)).reshape(len(c), channels, pixels)
        colours = x.mean(dim=2)
        S = pixels * self.covariance.to(c.device) + delta**2 * torch.eye(channels, dtype=c.dtype, device=c.device)
        inverse = torch.linalg.inv(S)
        apart = (x - colours[:, :, None]).square().sum(dim=(1, 2))
        offset = colours - self.mean.to(c.device)
        distance = pixels * (offset[:, :, None] * offset[:, None, :] * inverse).sum(dim=(1, 2)) + apart / delta**2
        spread = sigma**2 * (inverse.trace() + (dim - channels) / delta**2)
        volume = torch.logdet(S) + 2 * (dim - channels) * math.log(delta) - 2 * dim * math.log(sigma)
        return 0.5 * (distance + spread - dim + volume)


def isotropic_relative_entropy(squared_distance: Tensor, dim: int, sigma: float, delta: float) -> Tensor:
    """KL(N(a, sigma^2) || N(b, delta^2)) in `dim` dimensions from |a - b|^2, nats."""
    ratio = sigma / delta
    return 0.5 * (squared_distance / delta**2 + dim * (ratio**2 - 1.0 - 2.0 * math.log(ratio)))


def num_channels(shape: tuple[int, ...]) -> int:
    """Colour channels of data of `shape`: C of `(C, H, W)`, 1 of `(D,)`."""
    return shape[0] if len(shape) == 3 else 1
