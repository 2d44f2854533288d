"""What every network of a cell has in common: how it is built and how it is called."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.config import ConfigError, Spec
from pipeline.networks.dropout import name_dropouts
from pipeline.networks.embeddings import Reading


class NetworkSpec(Spec):
    """A network's size; `build` makes the module for one data set.

    Every built network is called as `network(x, t, gamma, cond) -> (batch, *shape)` with x `(batch, *shape)` float32
    of unit variance, t `(batch,)`, gamma = log(sigma^2 / alpha^2) `(batch, 1)` or `(batch, dim)` (-inf allowed), and
    cond a `Condition` or None, whose label is read where the network has classes (negative or None: no class). gamma
    carries the whole noise state, also when one network serves many schedules, so t is read only by networks that are
    built with times: those of degradations, whose levels differ by more than their noise.
    """

    is_trained: ClassVar[bool] = True
    """Whether there are weights to train; without, a system takes no training and no `model` input."""

    @abstractmethod
    def module(self, shape: tuple[int, ...], reading: Reading) -> nn.Module:
        """The untrained module, its weights drawn from torch's CPU generator."""

    def encoder_module(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """The untrained encoder, its weights drawn from torch's CPU generator; arguments as for `encoder`."""
        raise ConfigError("network: there is no encoder for this kind of network; use unet or mlp")

    def build(
        self,
        shape: Sequence[int],
        num_classes: int | None = None,
        dim: int | None = None,
        *,
        seed: int = 0,
        num_times: int = 0,
        latent_dim: int | None = None,
        has_map: bool = False,
        band_order: Tensor | None = None,
    ) -> nn.Module:
        """The untrained module for data of `shape`; its weights are a function of `seed` alone.

        Args:
            shape: (C, H, W) or (D,).
            num_classes: number of classes to condition on; None builds an unconditional network.
            dim: number of components; must be the product of `shape` when given.
            seed: of the initial weights. The generator's state outside this call is left as it was.
            num_times: 0: t is not read; 1: it is; 2: so is `cond.time_to` (None: t again).
            latent_dim: length of `cond.latent` (None there: zeros); None builds a network that reads none.
            has_map: gamma is read as an image too, in the layout of the data: for noise levels of pixels.
            band_order: `(dim,)`, components in the order in which neighbours share a band of noise features.
        """
        shape = tuple(int(size) for size in shape)
        if num_times not in (0, 1, 2):
            raise ConfigError(f"network: it can read 0, 1 or 2 times, found {num_times}")
        if dim is not None and dim != prod(shape):
            raise ConfigError(f"network: {dim} components do not fit data of shape {shape}")
        with _seeded(seed):
            module = self.module(shape, Reading(num_classes, num_times, latent_dim, has_map, band_order))
        name_dropouts(module)
        return module

    def encoder(self, shape: Sequence[int], latent_dim: int, *, seed: int = 0) -> nn.Module:
        """The untrained variational encoder of this network's kind, half as wide, without dropout.

        It is called as `encoder(x_pair, t, time_to) -> (mean, log_variance)`, each `(batch, latent_dim)` float32, with
        the two states x_t and x_{time_to} joined along the first axis after the batch: `(batch, 2 C, H, W)` or
        `(batch, 2 D)`, of about unit variance, and their times `(batch,)`.

        Args:
            shape: (C, H, W) or (D,) of one state.
            latent_dim: length of the code.
            seed: of the initial weights, which are not those of `build` with the same seed.

        Raises:
            ConfigError: this kind of network has no encoder.
        """
        digest = blake2b(f"encoder/{seed}".encode(), digest_size=7).digest()
        with _seeded(int.from_bytes(digest, "little")):
            return self.encoder_module(tuple(int(size) for size in shape), latent_dim)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's CPU generator starts at `seed`; outside it is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def with_preset(data: object, presets: dict[str, dict[str, object]]) -> object:
    """`data` with the fields of its preset filled in where they are not given; explicit fields win."""
    if not isinstance(data, dict) or data.get("preset") not in presets:
        return data
    return {**presets[data["preset"]], **data}
