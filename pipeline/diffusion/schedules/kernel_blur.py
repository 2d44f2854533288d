"""Repeated convolution with circular borders, in the Fourier basis (Cold Diffusion's blur)."""

import math
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import ScheduleContext
from pipeline.diffusion.schedules.kernels import KernelWidths
from pipeline.diffusion.schedules.levels import DegradationScheduleSpec, LevelSchedule, interpolated
from pipeline.diffusion.schedules.named import End, Named


class KernelBlurSpec(KernelWidths, DegradationScheduleSpec):
    """alpha = the product of the kernels' Fourier transforms, on images that continue periodically.

    alpha can be negative: a kernel cut off at one standard deviation is nearly a box.
    """

    kind: Literal["kernel_blur"] = "kernel_blur"

    basis: ClassVar[str] = "fourier"
    names: ClassVar[tuple[Named, ...]] = (
        Named("kernel_blur", "Repeated convolution with a sampled Gaussian, borders continued periodically."),
        Named("black_kernel_blur", "Periodic convolutions and fade to black together.", is_black=True),
    )

    @property
    def end(self) -> End:
        return "flat" if self.with_flat_end else "images"

    def build(self, context: ScheduleContext) -> "KernelBlur":
        if context.basis.name != self.basis:
            raise ConfigError(f"schedule kernel_blur needs basis {self.basis}, found {context.basis.name}")
        return KernelBlur(self, context.shape)


class KernelBlur(LevelSchedule):
    """The schedule for data of `shape`; alpha is linear between levels."""

    def __init__(self, spec: KernelBlurSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec)
        self.spec = spec
        self.shape = shape

    def profile(self, position: Tensor) -> Tensor:
        one_channel = interpolated(self._symbols.on(position.device), position)
        return one_channel.repeat(1, self.shape[0] if len(self.shape) == 3 else 1)

    @cached_property
    def _symbols(self) -> Constant:
        return Constant(symbols(self.spec, self.shape))


def symbols(spec: KernelBlurSpec, shape: tuple[int, ...]) -> Float[Tensor, "levels frequencies"]:
    """alpha of levels 0 ... T for one channel, in the order of the Fourier basis, float64."""
    sides = shape[-2:] if len(shape) == 3 else shape
    weights = spec.weights(spec.num_levels, period=max(sides), reach=max(sides))
    axes = [_symbol(weights, size) for size in sides]
    kernel = axes[0] if len(axes) == 1 else (axes[0][:, :, None] * axes[1][:, None, :]).flatten(1)
    alpha = kernel.cumprod(dim=0)
    if spec.with_flat_end:
        is_mean = torch.zeros_like(alpha[:1])
        is_mean[0, 0] = 1.0
        alpha = torch.cat([alpha[:-1], is_mean])
    return torch.cat([torch.ones_like(alpha[:1]), alpha])


def _symbol(weights: Float[Tensor, "levels kernel"], size: int) -> Float[Tensor, "levels frequencies"]:
    """sum_j w_j cos(2 pi k j / size) of symmetric kernels, for k = 0 ... size - 1."""
    offset = torch.arange(weights.shape[1], dtype=torch.float64) - weights.shape[1] // 2
    angle = 2 * math.pi / size * offset[:, None] * torch.arange(size, dtype=torch.float64)
    return weights @ torch.cos(angle)
