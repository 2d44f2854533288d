"""What a terminal distribution is: where x_T comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Spec
from pipeline.diffusion.bases import Basis
from pipeline.diffusion.randomness import NoiseStream


@runtime_checkable
class Forward(Protocol):
    """What a terminal distribution needs of the process that it ends."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dim(self) -> int: ...

    @property
    def basis(self) -> Basis: ...

    def to_components(self, x: Tensor) -> Tensor: ...

    def to_data(self, c: Tensor) -> Tensor: ...

    def degrade(self, c_0: Tensor, t: float) -> Tensor: ...


@runtime_checkable
class Terminal(Protocol):
    """A distribution of x_T that can be drawn from."""

    def draw(self, image_indices: Sequence[int], seed: int) -> Float[Tensor, "batch *shape"]:
        """x_T of the images `image_indices` in data space, float32; image i is a function of (seed, i) alone."""
        ...


@runtime_checkable
class Density(Protocol):
    """A density over the components at t = 1."""

    def log_prob(self, c: Tensor) -> Tensor:
        """Nats per row of `c` `(batch, dim)`."""
        ...


@runtime_checkable
class LevelPrior(Protocol):
    """A terminal distribution blurred by noise, as the prior of a bound over levels."""

    def relative_entropy(self, c: Float[Tensor, "batch dim"], sigma: float, delta: float) -> Float[Tensor, "batch"]:
        """KL(N(c, sigma^2) || x_T before its noise, plus N(0, delta^2)) or an upper bound of it, nats, float64.

        Args:
            c: mean of the posterior at t = 1, components, float64.
            sigma: its standard deviation, positive.
            delta: noise of the prior, positive.
        """
        ...


@dataclass(frozen=True)
class TrainingImages:
    """Training images by their position in the training split.

    Attributes:
        count: how many there are.
        read: `(positions) -> (len(positions), *shape)`, float, data space.
    """

    count: int
    read: Callable[[Sequence[int]], Tensor]


class TerminalSpec(Spec):
    """Settings of a terminal distribution, selected by `kind`."""

    def build(self, process: Forward, images: TrainingImages | None = None) -> Terminal:
        """The distribution that ends `process`; `images` where it is made of training images."""
        raise TypeError(f"{type(self).__name__} does not say how it is built")


def start_noise(image_indices: Sequence[int], seed: int, shape: tuple[int, ...]) -> Float[Tensor, "batch *shape"]:
    """Unit normal noise of x_T, data space, float32: the draws of a Gaussian prior."""
    return NoiseStream(seed).normal(image_indices, 0, "x_T", shape)


def with_noise(
    x: Float[Tensor, "batch *shape"], image_indices: Sequence[int], seed: int, noise: float
) -> Float[Tensor, "batch *shape"]:
    """`x` plus noise of standard deviation `noise`, float32."""
    if noise == 0.0:
        return x.to(torch.float32)
    return (x + noise * start_noise(image_indices, seed, tuple(x.shape[1:]))).to(torch.float32)
