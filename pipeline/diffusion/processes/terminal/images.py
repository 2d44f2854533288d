"""Fully degraded training images as terminal distribution (Rissanen et al. 2023, section 3)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.processes.terminal.base import Forward, TerminalSpec, TrainingImages, with_noise
from pipeline.diffusion.processes.terminal.flat import isotropic_relative_entropy
from pipeline.diffusion.randomness import NoiseStream

CHUNK_ELEMENTS = 2**22
"""Numbers of training data degraded at a time: 32 MiB as float64."""

KEPT_ELEMENTS = 2**26
"""Up to so many numbers (512 MiB) the degraded training images of a bound stay in memory: MNIST's do."""

_CACHED_ELEMENTS = 2**18  # what stays in a processor's cache while it is compared with every row


class TrainingImagesSpec(TerminalSpec):
    """x_T is D(x_0, 1) of a training image, each once per round, plus noise."""

    kind: Literal["training_images"] = "training_images"
    noise: NonNegativeFloat = 0.0  # on the [-1, 1] scale; IHDM: 1.25 sigma

    def build(self, process: Forward, images: TrainingImages | None = None) -> "TrainingImagesTerminal":
        """The distribution.

        Raises:
            ConfigError: there are no training images.
        """
        if images is None or images.count < 1:
            raise ConfigError("terminal: training_images needs the training split; none was given")
        return TrainingImagesTerminal(process, images, self.noise)


class TrainingImagesTerminal:
    """D(x_0, 1) of training image pi(i), pi a new permutation for every round of `images.count`, plus noise."""

    def __init__(self, process: Forward, images: TrainingImages, noise: float) -> None:
        self.process, self.images, self.noise = process, images, noise
        self._kept: tuple[Tensor, ...] | None = None

    def positions(self, image_indices: Sequence[int], seed: int) -> list[int]:
        """Which training image each x_T is made of."""
        stream, orders = NoiseStream(seed), dict[int, Tensor]()
        positions: list[int] = []
        for index in image_indices:
            turn, place = divmod(int(index), self.images.count)
            if turn not in orders:
                orders[turn] = stream.permutation(self.images.count, turn, "terminal")
            positions.append(int(orders[turn][place]))
        return positions

    def draw(self, image_indices: Sequence[int], seed: int) -> Float[Tensor, "batch *shape"]:
        c_T = self._degraded(self.positions(image_indices, seed))
        return with_noise(self.process.to_data(c_T), image_indices, seed, self.noise)

    def relative_entropy(self, c: Float[Tensor, "batch dim"], sigma: float, delta: float) -> Float[Tensor, "batch"]:
        """ln M - logsumexp_i(-KL_i) over all M training images, KL_i between N(c, sigma^2) and N(D(x_i, 1), delta^2).

        An upper bound of KL(N(c, sigma^2) || mixture), from Jensen's inequality (Hershey & Olsen 2007, section 7).
        """
        total = torch.full((len(c),), -torch.inf, dtype=torch.float64, device=c.device)
        for chunk in self._chunks():
            distances = squared_distances(c.to(torch.float64), chunk.to(c.device))
            entropies = isotropic_relative_entropy(distances, c.shape[1], sigma, delta)
            total = torch.logaddexp(total, torch.logsumexp(-entropies, dim=1))
        return math.log(self.images.count) - total

    def _chunks(self) -> Iterable[Float[Tensor, "chunk dim"]]:
        """D(x_i, 1) of all training images in components; kept from the first call on if they are few enough."""
        if self.images.count * self.process.dim > KEPT_ELEMENTS:
            return self._degraded_chunks()
        if self._kept is None:
            self._kept = tuple(self._degraded_chunks())
        return self._kept

    def _degraded_chunks(self) -> Iterator[Float[Tensor, "chunk dim"]]:
        size = max(1, CHUNK_ELEMENTS // self.process.dim)
        for start in range(0, self.images.count, size):
            yield self._degraded(range(start, min(start + size, self.images.count)))

    def _degraded(self, positions: Sequence[int]) -> Float[Tensor, "rows dim"]:
        x = self.images.read(positions).to(torch.float64)
        return self.process.degrade(self.process.to_components(x), 1.0)


def squared_distances(
    rows: Float[Tensor, "batch dim"], points: Float[Tensor, "points dim"]
) -> Float[Tensor, "batch points"]:
    """|row - point|^2; row by row, because products of matrices round differently with the number of rows."""
    parts: list[Tensor] = []
    for part in points.split(max(1, _CACHED_ELEMENTS // points.shape[1])):
        lengths = part.square().sum(dim=1)
        parts.append(torch.stack([row.square().sum() + lengths - 2 * (part @ row) for row in rows]).clamp(min=0.0))
    return torch.cat(parts, dim=1)
