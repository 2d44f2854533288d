"""Pixelation by the top left pixel of each block, as the code of Variational Cold Diffusion does it."""

import math
from itertools import pairwise
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


class PixelateNearestSpec(OperatorDegradationSpec):
    """Block size c: N // c pixels at multiples of c are kept and spread over the image by index floor(j n / N).

    The last level is the colour of the top left pixel everywhere. `distinct`: sizes from 2 to N // 2 + 1, evenly in
    their logarithm, each level different. `vcd`: the published list, whose first size is 1 (no degradation at all).
    """

    kind: Literal["pixelate_nearest"] = "pixelate_nearest"
    levels: Literal["distinct", "vcd"] = "distinct"  # sizes that differ in effect, or the published list

    names: ClassVar[tuple[Named, ...]] = (
        Named("pixelate_nearest", "Blocks of pixels are replaced by their top left pixel, as the code of VCD does it."),
        Named("black_pixelate_nearest", "The top left pixel of each block, and fade to black.", is_black=True),
    )

    @property
    def end(self) -> End:
        return "flat"

    def build(self, shape: tuple[int, ...], num_levels: int) -> Operator:
        require_images(shape, "pixelate_nearest")
        return PixelateNearest(self.sizes(max(shape[-2:]), num_levels), shape)

    def sizes(self, side: int, num_levels: int) -> tuple[int, ...]:
        """Block sizes of levels 1 ... T for images whose longer side is `side`.

        Raises:
            ConfigError: there are more levels than sizes that differ in effect, or the image is too small.
        """
        if self.levels == "distinct":
            return distinct_sizes(side, num_levels)
        sizes = vcd_sizes(side, num_levels)
        _refuse_idle_vcd(sizes, side)
        return sizes


class PixelateNearest(SeparableOperator):
    """The operator for block sizes of levels 1 ... T and images of `shape`."""

    def __init__(self, sizes: tuple[int, ...], shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.sizes = sizes

    def matrices(self, size: int) -> Float[Tensor, "levels size size"]:
        pixels = torch.eye(size, dtype=torch.float64)
        index = torch.arange(size)
        levels = [pixels]
        for block in self.sizes:
            num_kept = max(size // block, 1)
            levels.append(pixels[(index * num_kept // size * block).clamp(max=size - 1)])
        return torch.stack(levels)


def distinct_sizes(side: int, num_levels: int) -> tuple[int, ...]:
    """2 ... side // 2 + 1, rounded from equal steps of the logarithm and pushed apart where they meet."""
    largest = side // 2 + 1
    if num_levels > largest - 1:
        raise ConfigError(
            f"pixelate_nearest has {largest - 1} levels that differ on {side} pixels, found num_levels {num_levels}"
        )
    if num_levels == 1:
        return (largest,)
    wanted = torch.exp(torch.linspace(math.log(2.0), math.log(largest), num_levels, dtype=torch.float64))
    sizes = [round(size) for size in wanted.tolist()]
    for level in range(1, num_levels):
        sizes[level] = max(sizes[level], sizes[level - 1] + 1)
    for level in reversed(range(num_levels)):
        sizes[level] = min(sizes[level], largest - (num_levels - 1 - level))
    return tuple(sizes)


def vcd_sizes(side: int, num_levels: int) -> tuple[int, ...]:
    """int(exp(linspace(log 1.5, log(N/2 + 5), T))), in torch's float32: the rounding is part of the published list."""
    sizes = torch.exp(torch.linspace(math.log(1.5), math.log(side / 2 + 5), num_levels)).int()
    return tuple(sizes.tolist())


def _refuse_idle_vcd(sizes: tuple[int, ...], side: int) -> None:
    if side <= 10:
        raise ConfigError(f"pixelate_nearest levels vcd needs more than 10 pixels a side, found {side}; use distinct")
    if len(sizes) > side:
        raise ConfigError(f"pixelate_nearest levels vcd allows {side} levels on {side} pixels, found {len(sizes)}")
    repeated = [size for before, size in pairwise(sizes) if before == size]
    if repeated:
        raise ConfigError(
            f"pixelate_nearest levels vcd repeats block size {repeated[0]} with num_levels {len(sizes)} on {side}"
            " pixels: a level that does nothing; use fewer levels, or distinct"
        )
