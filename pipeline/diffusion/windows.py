"""When each component moves, how many steps of a grid that is, and grids that give every component enough of them.

Under a clipped or sequential schedule a component moves during a window only, the shorter the more components take
turns: of n exactly sequential ones each has a share 1/n of the time, so N uniform steps resolve each by N/n. What
counts for a kernel's accuracy are the steps in a window: in the autoregressive limit every component goes through the
scalar diffusion from its highest to its lowest noise level in that many steps (tests/unit/test_autoregressive.py).

DDIM and ancestral steps know noise levels alone: a step over a kink only asks the predictor a little early. Euler and
Heun follow time derivatives, which jump at kinks: off them Heun's order falls to 1, so give it a grid that has them.
"""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.processes import SpectralProcess

_CHUNK = 256  # times whose levels of all components are held at once
_ROUNDING = 1e-9  # share of a step


def steps_in_window(process: SpectralProcess, times: Float[Tensor, " grid"]) -> Int64[Tensor, " levels"]:
    """Steps of a time grid in which a component moves, `(1,)` (one law for all) or `(dim,)`.

    Args:
        process: forward process, its schedule parameters scalars.
        times: falling, `(steps + 1,)`.
    """
    return sum((moving.sum(dim=0) for moving in _moving(process, times)), start=torch.zeros((), dtype=torch.int64))


def window_grid(process: SpectralProcess, steps_per_window: int) -> Float[Tensor, " grid"]:
    """Falling times from 1 to 0 with every kink among them, float64; every component moves in at least so many steps.

    Between two kinks the steps are equal. A time in which nothing moves is one step.

    Args:
        process: forward process, its schedule parameters scalars.
        steps_per_window: at least 1.

    Raises:
        ConfigError: `steps_per_window` is less than 1.
    """
    if steps_per_window < 1:
        raise ConfigError(f"a grid over windows needs steps_per_window >= 1, found {steps_per_window}")
    borders = torch.tensor([0.0, *process.schedule.kinks, 1.0], dtype=torch.float64)
    lengths = borders.diff()
    moving = torch.cat(_moving(process, borders))
    windows = lengths @ moving.double()  # the whole time that a component moves
    shares = torch.where(moving, lengths[:, None] / windows, 0.0).amax(dim=1)
    counts = torch.ceil(steps_per_window * shares - _ROUNDING).clamp(min=1).to(torch.int64)
    pieces = [
        torch.linspace(float(lower), float(upper), int(count) + 1, dtype=torch.float64)[:-1]
        for (lower, upper), count in zip(pairwise(borders), counts, strict=True)
    ]
    return torch.cat([*pieces, borders[-1:]]).flip(0)


def largest_step(process: SpectralProcess, times: Float[Tensor, " grid"]) -> float:
    """Largest change of a component's log SNR in a step of a time grid; inf where gamma(0) = -inf is on it.

    Args:
        process: forward process, its schedule parameters scalars.
        times: falling, `(steps + 1,)`.
    """
    return max(float(gamma.diff(dim=0).abs().max()) for gamma in _gammas(process, times))


def _gammas(process: SpectralProcess, times: Tensor) -> list[Float[Tensor, "times levels"]]:
    """Noise levels at runs of times; each run begins with the last time of the one before."""
    return [process.marginal(times[i : i + _CHUNK + 1]).gamma for i in range(0, len(times) - 1, _CHUNK)]


def _moving(process: SpectralProcess, times: Tensor) -> list[Bool[Tensor, "steps levels"]]:
    return [gamma[1:] != gamma[:-1] for gamma in _gammas(process, times)]
