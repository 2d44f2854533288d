"""Repeated convolution with mirrored borders (torch's `reflect` padding), as published for CIFAR-10 and AFHQ."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.processes.operators.base import (
    Operator,
    OperatorDegradationSpec,
    SeparableOperator,
    require_images,
)
from pipeline.diffusion.schedules import End, Named
from pipeline.diffusion.schedules.kernels import KernelWidths


class ReflectBlurSpec(KernelWidths, OperatorDegradationSpec):
    """The borders are mirrored without repeating the border pixel: the blur is not symmetric and moves the mean.

    The flat end has the mean colour of the blurred image, not of the image.
    """

    kind: Literal["reflect_blur"] = "reflect_blur"

    names: ClassVar[tuple[Named, ...]] = (
        Named("kernel_blur_reflect", "Repeated convolution with a sampled Gaussian, borders mirrored about a pixel."),
    )

    @property
    def end(self) -> End:
        return "flat" if self.with_flat_end else "images"

    def build(self, shape: tuple[int, ...], num_levels: int) -> Operator:
        require_images(shape, "reflect_blur")
        reach, sides = (self.kernel_size or 3) // 2, " x ".join(map(str, shape[-2:]))
        if min(shape[-2:]) <= reach:
            raise ConfigError(
                f"reflect_blur: kernel_size {self.kernel_size} needs sides of more than {reach} pixels, found {sides}"
            )
        return ReflectBlur(self, shape, num_levels)


class ReflectBlur(SeparableOperator):
    """The operator for images of `shape` and T = `num_levels`."""

    def __init__(self, spec: ReflectBlurSpec, shape: tuple[int, ...], num_levels: int) -> None:
        super().__init__(shape)
        self.spec = spec
        self.num_levels = num_levels

    def matrices(self, size: int) -> Float[Tensor, "levels size size"]:
        levels = [torch.eye(size, dtype=torch.float64)]
        period, reach = 2 * (max(self.shape[-2:]) - 1), min(self.shape[-2:]) - 1
        for kernel in self.spec.weights(self.num_levels, period=period, reach=reach):
            levels.append(reflected_convolution(kernel, size) @ levels[-1])
        if self.spec.with_flat_end:
            levels[-1] = levels[-1].mean(dim=0, keepdim=True).expand(size, size)
        return torch.stack(levels)


def reflected_convolution(kernel: Float[Tensor, " kernel"], size: int) -> Float[Tensor, "size size"]:
    """The convolution of a vector with a kernel of odd length, borders mirrored about their pixel."""
    reach = len(kernel) // 2
    target = torch.arange(size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, weight in zip(range(-reach, reach + 1), kernel, strict=True):
        source = (target + offset).abs()
        source = torch.where(source >= size, 2 * (size - 1) - source, source)
        matrix[target, source] += weight
    return matrix
