"""Sampled Gaussian kernels that grow from level to level, as in Cold Diffusion and VCD's `blur_bansal`."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import Spec


class KernelWidths(Spec):
    """Level k applies the kernels 1 ... k one after another, each `kernel_size` wide, with std s_1 ... s_k.

    `linear`: s_i = kernel_std + growth (i - 1). `exponential`: kernel_std exp(growth (i - 1)). Published: constant
    (kernel_std 2, size 5, or 7 and 11; growth 0), cifar10 (linear, 0.35, growth 0.01), others (exponential, 1, 0.01).
    """

    kernel_size: Annotated[int, Field(ge=3)] = 5  # pixels, odd
    kernel_std: Annotated[float, Field(gt=0.0)] = 2.0  # standard deviation of the first kernel, in pixels
    growth: Annotated[float, Field(ge=0.0)] = 0.0  # of the standard deviation per level
    growth_law: Literal["linear", "exponential"] = "linear"
    with_flat_end: bool = True  # the last level is the mean of each channel instead of one more kernel

    @model_validator(mode="after")
    def _has_a_middle(self) -> "KernelWidths":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        return self

    def stds(self, num_levels: int) -> Float[Tensor, " levels"]:
        """s_1 ... s_T in pixels, `(num_levels,)` float64."""
        grown = self.growth * torch.arange(num_levels, dtype=torch.float64)
        return self.kernel_std + grown if self.growth_law == "linear" else self.kernel_std * torch.exp(grown)

    def weights(self, num_levels: int) -> Float[Tensor, "levels size"]:
        """Kernels of levels 1 ... T, `(num_levels, kernel_size)` float64, each of sum 1."""
        offset = torch.arange(self.kernel_size, dtype=torch.float64) - self.kernel_size // 2
        weights = torch.exp(-offset.square() / (2 * self.stds(num_levels)[:, None].square()))
        return weights / weights.sum(dim=1, keepdim=True)
