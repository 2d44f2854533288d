"""Exponential moving average of a network's weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_RAMP = 0.05
"""Share of the images seen so far that the half-life may reach while it warms up. Karras 2022, EDM training loop."""


class ExponentialMovingAverage:
    """average <- decay * average + (1 - decay) * weights, in float32, one fused pass over all parameters.

    Either `decay` per update, with warm-up min(decay, (1 + n) / (10 + n)) after n updates, or `half_life_images`, the
    number of images after which a weight counts half, with warm-up min(half life, 5 % of the images seen).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        decay: float | None = None,
        half_life_images: float | None = None,
        warmup: bool = True,
    ) -> None:
        """`module`: without a data-parallel wrapper; its present weights are the first average."""
        if (decay is None) == (half_life_images is None):
            raise ValueError("an average needs either decay or half_life_images")
        if decay is not None and not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), found {decay}")
        if half_life_images is not None and half_life_images <= 0:
            raise ValueError(f"half_life_images must be positive, found {half_life_images}")
        self.decay = decay
        self.half_life_images = half_life_images
        self.warmup = warmup
        self.num_updates = 0
        self.num_images = 0
        self._names = [name for name, _ in module.named_parameters()]
        self._average = [parameter.detach().float().clone() for parameter in module.parameters()]

    def next_decay(self, num_images: int) -> float:
        """The decay of an update that follows a step over `num_images` images (global batch)."""
        if self.decay is not None:
            return min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.warmup else self.decay
        assert self.half_life_images is not None
        half_life = self.half_life_images
        if self.warmup:
            half_life = min(half_life, _RAMP * (self.num_images + num_images))
        return 0.5 ** (num_images / half_life)

    @torch.no_grad()
    def update(self, module: nn.Module, *, num_images: int = 1) -> None:
        """Takes the weights of `module` after an optimiser step over `num_images` images (global batch)."""
        decay = self.next_decay(num_images)
        weights = [parameter.detach().float() for parameter in module.parameters()]
        torch._foreach_lerp_(self._average, weights, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.num_updates += 1
        self.num_images += num_images

    def weights(self) -> dict[str, Tensor]:
        """Averaged parameters by name, float32; shared memory, not a copy."""
        return dict(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrites the parameters of `module` by the average; buffers stay."""
        for parameter, average in zip(module.parameters(), self._average, strict=True):
            parameter.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"num_updates": self.num_updates, "num_images": self.num_images, "average": self.weights()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` in place, onto the device of the present average."""
        if set(state["average"]) != set(self._names):
            raise ValueError("the averaged weights belong to another network")
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(state["average"][name])
        self.num_updates = int(state["num_updates"])
        self.num_images = int(state["num_images"])
