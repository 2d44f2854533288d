"""Decoders of quantised data: probabilities of the levels 0 .. q-1 given an estimate of the datum, in data space.

Positions are in bins: level k sits at k, which is x = 2 (k + 1/2)/q - 1. A decoder multiplies over the entries of a
datum. Both are normalised for any estimate, so that a bound with one of them is a bound of the discrete likelihood.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.processes import SpectralProcess

MAX_DISTANCE = 1e-3
"""How far from a bin centre a datum may lie, in bins: what float32 loses of 2 (k + 1/2)/q - 1."""

_NEGLIGIBLE = 80.0  # e^-80 of the largest term changes no sum

_ROWS = 512  # of the basis, transformed at a time


def levels_of(x: Float[Tensor, "batch *shape"], quantisation: int) -> Float[Tensor, "batch dim"]:
    """The levels k of data given as their bin centres 2 (k + 1/2)/q - 1, float64.

    Raises:
        ValueError: an entry is no bin centre, for example because the data are dequantised.
    """
    position = (x.to(torch.float64).flatten(1) + 1.0) * (quantisation / 2.0) - 0.5
    level = position.round().clamp(0, quantisation - 1)
    if not x.is_meta and not bool(((position - level).abs() < MAX_DISTANCE).all()):
        off = float((position - level).abs().nan_to_num(nan=torch.inf).max())
        raise ValueError(
            f"data must be the centres of {quantisation} bins on [-1, 1], not dequantised; found one {off:.3g} bins off"
        )
    return level


def softmax_log_prob(
    position: Float[Tensor, "batch dim"],
    level: Float[Tensor, "batch dim"],
    spread: Float[Tensor, "1 entries"],
    quantisation: int,
) -> Float[Tensor, "batch dim"]:
    """log softmax over j of -(position - j)^2 / (2 spread^2), at j = level (Kingma 2021, appendix; VDM's decoder).

    Summed over the bins around the nearest one that matter at this spread, relative to it: no digits are lost where
    the decoder is certain.

    Args:
        position: estimate in bins. level: true levels. spread: noise of the estimate in bins, 1 or dim entries.
        quantisation: q.
    """
    widest = float(spread.max())
    reach = min(math.ceil(0.5 + math.sqrt(0.25 + 2 * _NEGLIGIBLE * widest**2)), quantisation - 1)
    precision = (0.5 / spread.square()).to(position.device)
    nearest = position.round().clamp(0, quantisation - 1)
    behind = 2 * (nearest - position)
    others = torch.zeros_like(position)
    for step in (step for step in range(-reach, reach + 1) if step != 0):
        bin_ = nearest + step
        term = torch.exp(-precision * (step * (step + behind)))
        others = others + torch.where((bin_ >= 0) & (bin_ < quantisation), term, 0.0)
    away = level - nearest
    return -precision * (away * (away + behind)) - torch.log1p(others)


def discretised_gaussian_log_prob(
    position: Float[Tensor, "batch dim"],
    level: Float[Tensor, "batch dim"],
    spread: Float[Tensor, "1 entries"],
    quantisation: int,
) -> Float[Tensor, "batch dim"]:
    """log mass of N(position, spread^2) on the bin of `level`; the outer bins reach to infinity (Ho 2020, eq. 13).

    Exact in both tails; the published code cuts masses at 1e-12 and approximates the error function.

    Args:
        position: mean in bins. level: true levels. spread: standard deviation in bins, 1 or dim entries.
        quantisation: q.
    """
    rate = 1.0 / spread.to(position.device)
    low = torch.where(level == 0, -torch.inf, (level - 0.5 - position) * rate)
    high = torch.where(level == quantisation - 1, torch.inf, (level + 0.5 - position) * rate)
    is_above = low + high > 0  # the same mass mirrored: logs of small numbers instead of numbers near 1
    low, high = torch.where(is_above, -high, low), torch.where(is_above, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return upper + torch.log(-torch.expm1(lower - upper))


def pixel_deviation(process: SpectralProcess, variances: Float[Tensor, "1 levels"]) -> Float[Tensor, "1 entries"]:
    """Standard deviation in each entry of a datum of noise with these variances in components, `(1, 1 | dim)`.

    One number where all components share theirs. Else entries are correlated in any basis but the pixels, and this is
    the deviation of each entry by itself.
    """
    if bool((variances == variances[:, :1]).all()):
        return variances[:, :1].sqrt()
    if process.basis.name == "pixel":
        return variances.sqrt()
    total = torch.zeros(1, process.dim, dtype=torch.float64)
    for first in range(0, process.dim, _ROWS):
        rows = torch.arange(first, min(first + _ROWS, process.dim))
        unit = torch.zeros(len(rows), process.dim, dtype=torch.float64)
        unit[torch.arange(len(rows)), rows] = 1.0
        total += variances[:, rows] @ process.basis.to_data(unit).flatten(1).square()
    return total.sqrt()
