"""Heat dissipation in the DCT basis: a Gaussian blur with mirrored borders (Rissanen 2023, eq. 5; VCD's `blur`)."""

import math
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


class HeatSpec(DegradationScheduleSpec):
    """alpha = exp(-L s^2 / 2), L = (pi i / height)^2 + (pi j / width)^2, s the width of the blur in pixels.

    `geometric`: s = exp(linspace(log blur_min, log blur_max, T)), Rissanen's schedule (0.5 to 20 for MNIST, 24 for
    CIFAR-10). `vcd`: exp(linspace(0, log N, T - 1)) and N once more, the published levels of Variational Cold
    Diffusion, whose last step does nothing.
    """

    kind: Literal["heat"] = "heat"
    levels: Literal["geometric", "vcd"] = "geometric"  # s even in its logarithm, or 1 ... N and N again
    blur_min: Annotated[float, Field(gt=0.0)] = 0.5  # s of the first level, in pixels
    blur_max: Annotated[float, Field(gt=0.0)] | None = None  # s of the last level; null: the longer side
    with_flat_end: bool | None = None  # whether the last level is exactly the mean; null: where s would be the side

    basis: ClassVar[str] = "dct"
    names: ClassVar[tuple[Named, ...]] = (
        Named("blur", "Heat dissipation: a Gaussian blur that grows until one colour is left."),
        Named("black_blur", "Heat dissipation and fade to black together.", is_black=True),
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "HeatSpec":
        if self.levels == "vcd" and (self.blur_min != 0.5 or self.blur_max is not None or self.with_flat_end):
            raise ValueError("levels vcd runs from 1 pixel to the side: give no blur_min, blur_max or with_flat_end")
        if self.blur_max is not None and self.blur_max <= self.blur_min:
            raise ValueError("blur_max must be larger than blur_min")
        return self

    @property
    def is_flat(self) -> bool:
        """Whether the last level is exactly the mean of each channel."""
        if self.with_flat_end is None:
            return self.levels == "geometric" and self.blur_max is None
        return self.with_flat_end

    @property
    def end(self) -> End:
        # The published levels end at s = N, where 0.7 % of the lowest frequency is left.
        return "flat" if self.is_flat or self.levels == "vcd" else "images"

    def build(self, context: ScheduleContext) -> "Heat":
        if context.basis.name != self.basis:
            raise ConfigError(f"schedule heat needs basis {self.basis}, found {context.basis.name}")
        return Heat(self, self.widths(max(context.shape[-2:])), laplacian(context.shape))

    def widths(self, side: int) -> Float[Tensor, " levels"]:
        """s_0 = 0, s_1 ... s_T in pixels, `(T + 1,)` float64, for images whose longer side is `side`.

        Raises:
            ConfigError: there are too few levels, or the side is not larger than blur_min.
        """
        if self.levels == "vcd":
            if self.num_levels < 2:
                raise ConfigError("heat levels vcd need num_levels of at least 2, found 1; use geometric")
            s = geometric(1.0, float(side), self.num_levels - 1)
            s = torch.cat([s, torch.full((1,), float(side), dtype=torch.float64)])
        else:
            largest = float(side) if self.blur_max is None else self.blur_max
            if largest <= self.blur_min:
                raise ConfigError(f"heat: blur_min {self.blur_min:g} must be smaller than the side, {side} pixels")
            s = geometric(self.blur_min, largest, self.num_levels)
        return torch.cat([torch.zeros(1, dtype=torch.float64), s])


class Heat(LevelSchedule):
    """The schedule for widths `(T + 1,)` and Laplace eigenvalues `(dim,)`; s is linear between levels."""

    def __init__(self, spec: HeatSpec, widths: Tensor, eigenvalues: Tensor) -> None:
        super().__init__(spec)
        self.is_flat = spec.is_flat
        self._widths = Constant(widths[:, None])
        self._eigenvalues = Constant(eigenvalues[None, :])

    def profile(self, position: Tensor) -> Tensor:
        eigenvalues = self._eigenvalues.on(position.device)
        alpha = torch.exp(-0.5 * eigenvalues * interpolated(self._widths.on(position.device), position).square())
        if not self.is_flat:
            return alpha
        left = (self.num_levels - position).clamp(0.0, 1.0)
        return torch.where(eigenvalues > 0, left, 1.0) * alpha


def laplacian(shape: tuple[int, ...]) -> Float[Tensor, " dim"]:
    """Eigenvalues L of minus the Laplace operator with mirrored borders, in the order of the DCT, per pixel^2."""
    axes = [(math.pi * torch.arange(size, dtype=torch.float64) / size).square() for size in shape[-2:]]
    if len(shape) == 1:
        return axes[0]
    return (axes[0][:, None] + axes[1][None, :]).expand(shape).reshape(-1)
