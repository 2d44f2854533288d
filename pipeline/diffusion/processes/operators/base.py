"""What a degradation of whole images is, where no orthonormal basis makes it a factor per component."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules import End, Named


class Operator(ABC):
    """D(x_0, level) for levels 0 ... T; level 0 is the image itself."""

    @abstractmethod
    def __call__(
        self, x: Float[Tensor, "batch channels height width"], position: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images degraded to a level each, in data space.

        Args:
            x: clean images; their dtype and device are kept.
            position: level of each image, in [0, T], float64 on x's device; between levels the parameters of the
                operator are interpolated.
        """


class OperatorDegradationSpec(Spec):
    """Settings of an operator, selected by `kind`."""

    names: ClassVar[tuple[Named, ...]] = ()
    """What users call it."""

    @property
    def end(self) -> End:
        """What is left of an image at t = 1."""
        return "images"

    def build(self, shape: tuple[int, ...], num_levels: int) -> Operator:
        """The operator for images of `shape` and T = `num_levels`.

        Raises:
            ConfigError: shape or number of levels do not fit.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is built")


class SeparableOperator(Operator):
    """One matrix for the rows and one for the columns of an image of `shape`; between levels they are interpolated."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    @abstractmethod
    def matrices(self, size: int) -> Float[Tensor, "levels size size"]:
        """Matrices of levels 0 ... T along an axis of `size` pixels, float64, the identity first."""

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], position: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        vertical, horizontal = (_between(table, position, x) for table in self._tables)
        return vertical @ x @ horizontal.mT

    @cached_property
    def _tables(self) -> tuple[Constant, Constant]:
        height, width = self.shape[-2:]
        vertical = Constant(self.matrices(height))
        return vertical, vertical if width == height else Constant(self.matrices(width))


def _between(table: Constant, position: Tensor, x: Tensor) -> Tensor:
    """The matrix of each position, `(batch, 1, size, size)` beside `x`."""
    levels = table.on(x.device)
    low = position.floor().clamp(max=len(levels) - 2)
    share = (position - low)[:, None, None]
    index = low.long()
    return torch.lerp(levels[index], levels[index + 1], share)[:, None].to(x.dtype)


def require_images(shape: tuple[int, ...], name: str) -> None:
    """Refuses data without height and width."""
    if len(shape) != 3:
        raise ConfigError(f"{name} needs images (channels, height, width), found data of shape {tuple(shape)}")
