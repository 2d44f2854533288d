"""A feature net ready to use: images in, features and perhaps logits out, and what a protocol has to say about it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config import DataError
from pipeline.evaluate.nets.resize import to_rgb_levels

NUM_AT_ONCE = 8
"""Images per call of a network on a processor: few enough for its cache, and features do not depend on it."""

NUM_AT_ONCE_ON_GPU = 64


@dataclass(frozen=True)
class LoadedNet:
    """What `NetSpec.load` returns; the statistics of nets that differ in digest or preprocessing have no distance.

    Attributes:
        name: the metric's, `fid`, `clean_fid`, `fd_...`.
        sha256: digest of the weights.
        preprocessing: how images reach the network: rule and size.
        extract: levels uint8 `(n, 3, H, W)` to features `(n, dim)`.
        classify: features to class logits `(n, classes)`, None where the net has no classes.
        device: where both compute.
    """

    name: str
    sha256: str
    preprocessing: str
    extract: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None
    device: torch.device

    @property
    def num_at_once(self) -> int:
        """Images per call of `extract`."""
        return NUM_AT_ONCE_ON_GPU if self.device.type == "cuda" else NUM_AT_ONCE

    @property
    def has_logits(self) -> bool:
        return self.classify is not None

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features of images.

        Args:
            x: float `(n, 1 or 3, H, W)`, n >= 1, data range [-1, 1].

        Returns:
            float32 `(n, dim)` on the net's device.

        Raises:
            DataError: images of another shape, type or range, or features that are not finite rows.
        """
        try:
            levels = to_rgb_levels(x.to(self.device))
        except ValueError as error:
            raise DataError(f"net {self.name}: {error}") from None
        with _exact(self.device):
            parts = [self.extract(part) for part in levels.split(self.num_at_once)]
        for part in parts:
            if part.ndim != 2:
                raise DataError(f"net {self.name}: features of shape {tuple(part.shape)}; expected rows (n, dim)")
        features = torch.cat(parts).float()
        if len(features) != len(x):
            raise DataError(f"net {self.name}: {len(features)} rows of features for {len(x)} images")
        if not bool(features.isfinite().all()):
            raise DataError(f"net {self.name}: features that are not finite; check its weights and its input range")
        return features

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Class logits of features: float32 `(n, classes)`.

        Raises:
            ValueError: the net has no classes; ask `has_logits` first.
        """
        if self.classify is None:
            raise ValueError(f"net {self.name} has no classes")
        with _exact(self.device):
            return self.classify(features.to(self.device)).float()


def _exact(device: torch.device) -> AbstractContextManager[Any]:
    """Convolutions in full float32 with one algorithm per shape: by default a GPU keeps ten bits of a product."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
