"""gamma_i(t) = clip(start_i + slope_i t, low_i, high_i): the form of all linear and sequential schedules."""

import torch
from torch import Tensor

from pipeline.diffusion.placement import Constant
from pipeline.diffusion.schedules.base import NoiseLevel, Schedule, level_from

_ROUNDING = 4 * torch.finfo(torch.float64).eps


class ClippedLinear(Schedule):
    """A line per component between two levels.

    Args:
        start: gamma at t = 0 before clipping, `(1, 1)`, `(1, dim)` or `(n, dim)` with one row per time.
        slope: same shapes, positive.
        low: lowest gamma, same shapes, or None.
        high: highest gamma, same shapes, or None.
    """

    def __init__(self, start: Tensor, slope: Tensor, *, low: Tensor | None = None, high: Tensor | None = None) -> None:
        self.is_scalar = start.shape[-1] == 1
        self._start, self._slope = Constant(start), Constant(slope)
        self._low = None if low is None else Constant(low)
        self._high = None if high is None else Constant(high)

    def level(self, t: Tensor) -> NoiseLevel:
        start, slope = self._start.on(t.device), self._slope.on(t.device)
        gamma = start + slope * t
        d_gamma = slope.expand_as(gamma)
        if self._low is not None and self._high is not None:
            low, high = self._low.on(t.device), self._high.on(t.device)
            # A time on a kink belongs to the moving side and has exactly the level it ends at, whatever the rounding,
            # which grows with the slope: of thousands of components that take turns each has a steep line.
            slack = 1e-13 * (high - low) + _ROUNDING * (start.abs() + slope)
            is_moving = (gamma >= low - slack) & (gamma <= high + slack)
            d_gamma = torch.where(is_moving, d_gamma, 0.0)
            gamma = torch.where(gamma <= low + slack, low, torch.where(gamma >= high - slack, high, gamma))
        return level_from(gamma, d_gamma)

    @property
    def kinks(self) -> tuple[float, ...]:
        if self._low is None or self._high is None:
            return ()
        ends = [(level.value - self._start.value) / self._slope.value for level in (self._low, self._high)]
        times = torch.cat([end.reshape(-1) for end in ends]).unique()
        inside = times[(times > 1e-12) & (times < 1 - 1e-12)].tolist()
        distinct = [time for i, time in enumerate(inside) if i == 0 or time - inside[i - 1] > 1e-12]
        return tuple(distinct)
