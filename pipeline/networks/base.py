"""What every network of a cell has in common: how it is built and how it is called."""

from abc import abstractmethod
from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from pipeline.config import ConfigError, Spec
from pipeline.networks.dropout import name_dropouts


class NetworkSpec(Spec):
    """A network's size; `build` makes the module for one data set.

    Every built network is called as `network(x, t, gamma, cond) -> (batch, *shape)` with x `(batch, *shape)` float32
    of unit variance, t `(batch,)`, gamma = log(sigma^2 / alpha^2) `(batch, 1)` or `(batch, dim)` (-inf allowed), and
    cond a `Condition` or None, whose label is read where the network has classes (negative or None: no class). t is
    not read: gamma carries the whole noise state, also when one network serves many schedules.
    """

    @abstractmethod
    def module(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        """The untrained module, its weights drawn from torch's CPU generator."""

    def build(
        self, shape: Sequence[int], num_classes: int | None = None, dim: int | None = None, *, seed: int = 0
    ) -> nn.Module:
        """The untrained module for data of `shape`; its weights are a function of `seed` alone.

        Args:
            shape: (C, H, W) or (D,).
            num_classes: number of classes to condition on; None builds an unconditional network.
            dim: number of components; must be the product of `shape` when given.
            seed: of the initial weights. The generator's state outside this call is left as it was.
        """
        shape = tuple(int(size) for size in shape)
        if dim is not None and dim != prod(shape):
            raise ConfigError(f"network: {dim} components do not fit data of shape {shape}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = self.module(shape, num_classes)
        name_dropouts(module)
        return module


def with_preset(data: object, presets: dict[str, dict[str, object]]) -> object:
    """`data` with the fields of its preset filled in where they are not given; explicit fields win."""
    if not isinstance(data, dict) or data.get("preset") not in presets:
        return data
    return {**presets[data["preset"]], **data}
