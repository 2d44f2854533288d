"""A Gaussian hole that grows from the middle of the image (Cold Diffusion's defading; Bansal 2022, section 4.2)."""

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule, interpolated
from pipeline.diffusion.schedules.named import End, Named

_KEPT = 0.05


class MaskingSpec(DegradationScheduleSpec):
    """alpha_k(r) = prod_{i < k} (1 - exp(-r^2 / (2 s_i^2))), s_i = kernel_std (i + initial_mask), r from the middle.

    The middle is pixel (N - 1) // 2 of each axis. Published: kernel_std 0.1 or 0.2 and no zero end.
    """

    kind: Literal["masking"] = "masking"
    kernel_std: Annotated[float, Field(gt=0.0)] | None = None  # pixels; null: the corner keeps 5 % at level T - 1
    initial_mask: Annotated[int, Field(ge=1)] = 1  # width of the first hole, in units of kernel_std
    with_zero_end: bool = True  # the last level is exactly the centre

    names: ClassVar[tuple[Named, ...]] = (
        Named("fade", "A black Gaussian hole grows from the middle of the image.", centre="black"),
    )

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
    """alpha of levels 0 ... T, `(T + 1, height * width)` float64."""
    offsets = [torch.arange(size, dtype=torch.float64) - (size - 1) // 2 for size in shape[-2:]]
    radius2 = (offsets[0][:, None].square() + offsets[1].square()).reshape(1, -1)
    kernel_std = spec.kernel_std or _fitting_std(spec, float(radius2.max()))
    kept = _product(spec, kernel_std, radius2)
    if spec.with_zero_end:
        kept = torch.cat([kept[:-1], torch.zeros_like(kept[:1])])
    return torch.cat([torch.ones_like(kept[:1]), kept])


def _product(spec: MaskingSpec, kernel_std: float, radius2: Tensor) -> Tensor:
    """prod_{i < k} (1 - g_i) for k = 1 ... T, at squared distances `(1, m)`."""
    s = kernel_std * (torch.arange(spec.num_levels, dtype=torch.float64) + spec.initial_mask)[:, None]
    return (-torch.expm1(-radius2 / (2 * s.square()))).cumprod(dim=0)


def _fitting_std(spec: MaskingSpec, largest_radius2: float) -> float:
    """The kernel_std that leaves 5 % of the farthest pixel at level T - 1, by bisection in its logarithm."""
    level = max(spec.num_levels - 2, 0)
    corner = torch.tensor([[largest_radius2]], dtype=torch.float64)
    low, high = math.log(1e-6), math.log(1e3 * (1 + math.sqrt(largest_radius2)))
    for _ in range(60):
        middle = (low + high) / 2
        is_too_dark = float(_product(spec, math.exp(middle), corner)[level, 0]) < _KEPT
        low, high = (low, middle) if is_too_dark else (middle, high)
    return math.exp(low)
