"""Sequential schedules: image columns one after another, alone or inside the scales of the Haar transform.

A component waits at gamma_min until tau, rises linearly for a time `length` and stays at gamma_max. Column 0 and the
coarsest scale are noised last, so they are generated first.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.schedules.base import Schedule, ScheduleContext, ScheduleSpec
from pipeline.diffusion.schedules.clipped_linear import ClippedLinear

_ROUNDING = 1e-12


class SequentialSpec(ScheduleSpec):
    """Settings that the sequential schedules share."""

    overlap_b: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3  # GUD's b: 0 = all at once, (n-1)/n = one at a time
    gamma_min: float = -13.3
    gamma_max: float = 5.0

    @model_validator(mode="after")
    def _rises(self) -> "SequentialSpec":
        if self.gamma_min >= self.gamma_max:
            raise ValueError("gamma_min must be smaller than gamma_max")
        return self

    def line(self, tau: Tensor, length: float) -> Schedule:
        """The schedule with starting times `tau` `(dim,)` and a common duration."""
        low = torch.full((1, 1), self.gamma_min, dtype=torch.float64)
        high = torch.full((1, 1), self.gamma_max, dtype=torch.float64)
        slope = (high - low) / length
        start = low - slope * tau[None, :]
        return ClippedLinear(start, slope.expand_as(start), low=low, high=high)


class ColumnsSpec(SequentialSpec):
    """tau_c = b (n-1-c) / (n-1), length 1 - b, for c = 0 ... n-1 columns (or rows); pixel basis."""

    kind: Literal["columns"] = "columns"
    axis: Literal["column", "row"] = "column"

    def build(self, context: ScheduleContext) -> Schedule:
        if context.basis.name != "pixel":
            raise ConfigError(f"schedule columns needs basis pixel, found {context.basis.name}")
        label = context.basis.column if self.axis == "column" else context.basis.row
        if label is None:
            raise ConfigError(f"schedule columns: the data have no {self.axis}")
        n = int(label.max()) + 1
        _refuse_dead_time(self.overlap_b, n, self.axis)
        tau = self.overlap_b * _from_last(label, torch.tensor(float(n)))
        return self.line(tau, 1 - self.overlap_b)


class HaarColumnsSpec(SequentialSpec):
    """Columns inside each scale: tau = a (J-j)/J + (1-a) b (n_j-1-c)/(n_j-1), length (1-a)(1-b); Haar basis.

    j = 0 (averages) ... J (finest), n_j the columns of a sub-band of scale j, a = `level_offset`: 0 = all scales at
    once, J/(J+1) = one scale after another. Definition of this project (GUD section 4 gives only the picture).
    """

    kind: Literal["haar_columns"] = "haar_columns"
    level_offset: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5

    def build(self, context: ScheduleContext) -> Schedule:
        level, column = context.basis.level, context.basis.column
        if level is None or column is None:
            raise ConfigError(f"schedule haar_columns needs basis haar, found {context.basis.name}")
        num_scales = int(level.max())
        if self.level_offset > num_scales / (num_scales + 1) + _ROUNDING:
            raise ConfigError(
                f"level_offset {self.level_offset:g} leaves dead time between {num_scales + 1} scales:"
                f" it must not exceed {num_scales}/{num_scales + 1}"
            )
        widths = torch.stack([column[level == j].max() + 1 for j in range(num_scales + 1)])
        _refuse_dead_time(self.overlap_b, int(widths.max()), "column")
        a = self.level_offset
        begin = a * (num_scales - level) / max(num_scales, 1)
        tau = begin + (1 - a) * self.overlap_b * _from_last(column, widths[level.long()])
        return self.line(tau, (1 - a) * (1 - self.overlap_b))


def _from_last(index: Tensor, count: Tensor) -> Tensor:
    """(n-1-c) / (n-1): 1 for the first, 0 for the last; 0 when there is one only."""
    return (count - 1 - index) / (count - 1).clamp(min=1.0)


def _refuse_dead_time(overlap_b: float, count: int, name: str) -> None:
    if overlap_b > (count - 1) / count + _ROUNDING:
        raise ConfigError(
            f"overlap_b {overlap_b:g} leaves dead time between {count} {name}s: it must not exceed {count - 1}/{count}"
        )
