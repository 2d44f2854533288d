"""A Gaussian hole that grows from the middle of the image (Cold Diffusion's defading; Bansal 2022, section 4.2)."""

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule, geometric, interpolated
from pipeline.diffusion.schedules.named import End, Named

_KEPT = 0.05


class MaskingSpec(DegradationScheduleSpec):
    """alpha falls to 0 at the middle pixel, (N - 1) // 2 of each axis, and in growing distance r from it.

    `geometric`: alpha_k = 1 - exp(-r^2 / (2 s_k^2)), s from hole_min to the width that leaves 5 % of the farthest
    pixel. `cold`: the published prod_{i < k} (1 - exp(-r^2 / (2 s_i^2))), s_i = kernel_std (i + initial_mask), with
    kernel_std 0.1 for CIFAR-10, 0.2 for CelebA, and no zero end.
    """

    kind: Literal["masking"] = "masking"
    levels: Literal["geometric", "cold"] = "geometric"  # one hole, or the published product
    hole_min: Annotated[float, Field(gt=0.0)] = 0.5  # width of the first hole, in pixels (geometric)
    kernel_std: Annotated[float, Field(gt=0.0)] | None = None  # growth of the holes, in pixels (cold)
    initial_mask: Annotated[int, Field(ge=1)] = 1  # width of the first hole, in units of kernel_std (cold)
    with_zero_end: bool = True  # the last level is exactly the centre

    names: ClassVar[tuple[Named, ...]] = (
        Named("fade", "A black Gaussian hole grows from the middle of the image.", centre="black"),
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "MaskingSpec":
        if self.levels == "cold" and (self.kernel_std is None or self.hole_min != 0.5):
            raise ValueError("levels cold needs kernel_std, and no hole_min")
        if self.levels == "geometric" and (self.kernel_std is not None or self.initial_mask != 1):
            raise ValueError("kernel_std and initial_mask belong to levels cold")
        return self

    @property
    def end(self) -> End:
        return "zero" if self.with_zero_end else "images"

    def build(self, context: ScheduleContext) -> "Masking":
        if context.basis.name != self.basis:
            raise ConfigError(f"schedule masking needs basis {self.basis}, found {context.basis.name}")
        if len(context.shape) != 3:
            raise ConfigError(f"masking needs images (channels, height, width), found data of shape {context.shape}")
        return Masking(self, context.shape)


class Masking(LevelSchedule):
    """The schedule for images of `shape`; alpha is linear between levels."""

    def __init__(self, spec: MaskingSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec)
        self.spec = spec
        self.shape = shape

    def profile(self, position: Tensor) -> Tensor:
        one_channel = interpolated(self._masks.on(position.device), position)
        return one_channel.repeat(1, self.shape[0])

    @cached_property
    def _masks(self) -> Constant:
        return Constant(masks(self.spec, self.shape))


def masks(spec: MaskingSpec, shape: tuple[int, ...]) -> Float[Tensor, "levels pixels"]:
    """alpha of levels 0 ... T for one channel, `(T + 1, height * width)` float64."""
    offsets = [torch.arange(size, dtype=torch.float64) - (size - 1) // 2 for size in shape[-2:]]
    radius2 = (offsets[0][:, None].square() + offsets[1].square()).reshape(1, -1)
    count = spec.num_levels - int(spec.with_zero_end)
    holes = -torch.expm1(-radius2 / (2 * _widths(spec, count, float(radius2.max())).square()))
    kept = holes.cumprod(dim=0) if spec.levels == "cold" else holes
    end = [torch.zeros_like(radius2)] if spec.with_zero_end else []
    return torch.cat([torch.ones_like(radius2), kept, *end])


def _widths(spec: MaskingSpec, count: int, largest_radius2: float) -> Float[Tensor, "count 1"]:
    """s of the first `count` levels, in pixels."""
    if spec.kernel_std is not None:
        s = spec.kernel_std * (torch.arange(count, dtype=torch.float64) + spec.initial_mask)
    else:
        widest = max(math.sqrt(-largest_radius2 / (2 * math.log1p(-_KEPT))), 2 * spec.hole_min)
        s = geometric(spec.hole_min, widest, count)
    return s[:, None]
