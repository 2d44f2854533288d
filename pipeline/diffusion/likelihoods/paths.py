"""The way from data to prior along which a likelihood is integrated: stages of fixed-step solvers."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.processes import Marginal, SpectralProcess

MAX_GAMMA = 20.0
"""The angle is followed up to this noise level: beyond it alpha^2 < 2e-9 and v = (eps - sigma w)/alpha loses digits."""

SPACING_ANGLE = 1e-3
"""Quadratic spacing is laid out from at least this angle (VP at t = 1e-5), also where the path starts at angle 0."""

MIN_ANGLE = 1e-6
"""Where the path starts without noise the predictor is asked at this angle: v -> 0 there, but is 0/0 from an x_0."""

_BISECTIONS = 80
_INWARD = 1e-9  # share of a segment by which a time derivative is taken inside it, where kinks make it one-sided


@dataclass(frozen=True)
class Stage:
    """A point of the path: the flow in white coordinates is dw/dtau = rate * v.

    Attributes:
        t: diffusion time, 0-d float64.
        rate: d angle_i / dtau, `(1, 1 or dim)` float64; the angle is atan(sigma/alpha).
    """

    t: Tensor
    rate: Float[Tensor, "1 levels"]


@dataclass(frozen=True)
class PathStep:
    """One solver step of length `length` in tau with the stages at its start, middle and end."""

    length: float
    start: Stage
    middle: Stage
    end: Stage


def likelihood_path(process: SpectralProcess, num_steps: int) -> list[PathStep]:
    """Steps from t = 0 to the prior.

    A scalar schedule is followed in its angle with quadratic spacing; a component-wise one has no common angle and is
    followed in t, uniformly, split at every kink.

    Args:
        process: forward process with J = 1.
        num_steps: number of steps; a component-wise path has at least one per piece between kinks.
    """
    return _angle_path(process, num_steps) if process.schedule.is_scalar else _time_path(process, num_steps)


def _angle_path(process: SpectralProcess, num_steps: int) -> list[PathStep]:
    ends = process.marginal(torch.tensor([0.0, 1.0], dtype=torch.float64)).gamma[:, 0].clamp(max=MAX_GAMMA)
    first, last = (float(angle) for angle in torch.atan(torch.exp(0.5 * ends)))
    roots = torch.linspace(math.sqrt(max(first, SPACING_ANGLE)), math.sqrt(last), num_steps + 1, dtype=torch.float64)
    angles = roots**2
    angles[0] = first
    middles = 0.5 * (angles[:-1] + angles[1:])
    t = times_of_gamma(process, 2.0 * torch.log(torch.tan(torch.cat((angles, middles)).clamp(min=MIN_ANGLE))))
    if angles[0] > MIN_ANGLE:
        t[0] = 0.0
    one = torch.ones(1, 1, dtype=torch.float64)
    nodes, halves = t[: num_steps + 1], t[num_steps + 1 :]
    lengths = [float(length) for length in angles.diff()]
    return [
        PathStep(lengths[k], Stage(nodes[k], one), Stage(halves[k], one), Stage(nodes[k + 1], one))
        for k in range(num_steps)
    ]


def times_of_gamma(process: SpectralProcess, gamma: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
    """Inverse of a scalar schedule by bisection: the times at which it takes the noise levels `gamma`."""
    target = gamma.reshape(-1)
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_above = process.marginal(middle).gamma[:, 0] > target
        high = torch.where(is_above, middle, high)
        low = torch.where(is_above, low, middle)
    return high.reshape(gamma.shape)


def _time_path(process: SpectralProcess, num_steps: int) -> list[PathStep]:
    steps: list[PathStep] = []
    borders = [0.0, *_separate(process.schedule.kinks, num_steps), 1.0]
    for lower, upper in pairwise(borders):
        count = max(1, round(num_steps * (upper - lower)))
        nodes = torch.linspace(lower, upper, 2 * count + 1, dtype=torch.float64)
        inward = _INWARD * (upper - lower)
        marginal = process.marginal(nodes.clamp(lower + inward, upper - inward))
        assert isinstance(marginal, Marginal)
        # d angle / dt = d_gamma sigma alpha / 2 from tan(angle) = e^(gamma/2)
        rates = 0.5 * marginal.d_gamma * torch.exp(0.5 * (marginal.log_alpha2 + marginal.log_sigma2))
        stages = [Stage(nodes[k], rates[k : k + 1]) for k in range(2 * count + 1)]
        length = (upper - lower) / count
        steps += [PathStep(length, *stages[2 * k : 2 * k + 3]) for k in range(count)]
    return steps


def _separate(kinks: tuple[float, ...], num_steps: int) -> list[float]:
    """Kinks to split at: all of them, or, where they outnumber the steps, a subset at least 1/(4 steps) apart.

    Inside a step of that size the neglected jump of a derivative is of second order in an already small step.
    """
    inner = sorted({kink for kink in kinks if 0.0 < kink < 1.0})
    gap = 1e-12 if len(inner) <= num_steps else 0.25 / num_steps
    kept = [0.0]
    for kink in inner:
        if kink - kept[-1] > gap and 1.0 - kink > gap:
            kept.append(kink)
    return kept[1:]
