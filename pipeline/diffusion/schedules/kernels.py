"""Sampled Gaussian kernels that are applied one after another, as in Cold Diffusion and VCD's `blur_bansal`."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import Spec

_KEPT = 0.01


class KernelWidths(Spec):
    """Level k applies kernels 1 ... k, of standard deviations s_1 ... s_k.

    `linear`: s_i = kernel_std + growth (i - 1). `exponential`: kernel_std exp(growth (i - 1)). Published: MNIST
    (kernel_size 5, kernel_std 2, growth 0), CIFAR-10 (27, 0.35, linear growth 0.01), others (27, 1, exponential 0.01).
    """

    kernel_size: Annotated[int, Field(ge=3)] | None = None  # pixels, odd; null: three deviations to each side
    kernel_std: Annotated[float, Field(gt=0.0)] | None = None  # pixels; null: T kernels leave 1 % of the longest wave
    growth: Annotated[float, Field(ge=0.0)] = 0.0  # of the standard deviation per level
    growth_law: Literal["linear", "exponential"] = "linear"  # kernel_std + growth i, or kernel_std exp(growth i)
    with_flat_end: bool = True  # the last level is the mean of each channel instead of one more kernel

    @model_validator(mode="after")
    def _is_consistent(self) -> "KernelWidths":
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        if self.kernel_std is None and self.growth:
            raise ValueError("growth needs kernel_std, the deviation that it starts from")
        return self

    def stds(self, num_levels: int, first: float) -> Float[Tensor, " levels"]:
        """s_1 = `first` ... s_T in pixels, `(num_levels,)` float64."""
        grown = self.growth * torch.arange(num_levels, dtype=torch.float64)
        return first + grown if self.growth_law == "linear" else first * torch.exp(grown)

    def weights(self, num_levels: int, *, period: int, reach: int) -> Float[Tensor, "levels size"]:
        """Kernels of levels 1 ... T, float64, each of sum 1.

        Args:
            num_levels: T.
            period: length in pixels of the longest wave that blurs away.
            reach: the most that a kernel without `kernel_size` may reach to each side.
        """
        first = self.kernel_std or self._fitting_std(num_levels, period, reach)
        return self._sampled(self.stds(num_levels, first), reach)

    def _sampled(self, stds: Tensor, reach: int) -> Tensor:
        if self.kernel_size is None:
            reach = min(max(math.ceil(3 * float(stds.max())), 1), reach)
        else:
            reach = self.kernel_size // 2
        offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
        weights = torch.exp(-offset.square() / (2 * stds[:, None].square()))
        return weights / weights.sum(dim=1, keepdim=True)

    def _fitting_std(self, num_levels: int, period: int, reach: int) -> float:
        """The deviation of T equal kernels that leave 1 % of the longest wave, by bisection in its logarithm."""
        low, high = math.log(0.1), math.log(float(period))
        for _ in range(50):
            middle = (low + high) / 2
            kernel = self._sampled(torch.tensor([math.exp(middle)], dtype=torch.float64), reach)[0]
            offset = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
            kept = float((kernel * torch.cos(2 * math.pi / period * offset)).sum())
            low, high = (low, middle) if kept < _KEPT ** (1 / num_levels) else (middle, high)
        return math.exp(low)
