"""Draws behind an estimate per example: unit noise that depends on the example alone, and what their spread says."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.processes import Process
from pipeline.diffusion.randomness import NoiseStream


def unit_noise(
    process: Process, seed: int, rows: Sequence[int], draws: range, name: str, device: torch.device
) -> Float[Tensor, "draws batch dim"]:
    """Unit noise in components, drawn in data space; all draws of one example are transformed together.

    Args:
        process: its basis and shape. seed, name: of the stream. device: of the result.
        rows: example indices.
        draws: which draws; each is a function of (seed, name, example index, draw) alone.
    """
    stream = NoiseStream(seed)
    shape = tuple(process.shape)
    drawn = [stream.normal(rows, k, name, shape, torch.float64) for k in draws]
    noise = torch.stack(drawn, dim=1).to(device)
    return example_by_example(process.basis.to_components, noise)


def example_by_example(
    transform: Callable[[Tensor], Tensor], draws: Float[Tensor, "batch draws *shape"]
) -> Float[Tensor, "draws batch *result"]:
    """`transform` applied to one example at a time, all its draws together; see `row_by_row`."""
    return torch.stack([transform(each) for each in draws], dim=1)


def mean_of_draws(draws: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"]:
    """Mean per example, added up in order: `sum(0)` rounds differently with the size of the batch."""
    return reduce(torch.add, draws) / len(draws)


def standard_error(draws: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"] | None:
    """Of the mean of independent draws, per example; None where a single one cannot tell."""
    if len(draws) < 2:
        return None
    variance = mean_of_draws((draws - mean_of_draws(draws)).square())
    return (variance / (len(draws) - 1)).sqrt()


def systematic_error(draws: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"] | None:
    """Of the mean of n draws evenly spread along a path, per example; None where a single one cannot tell.

    From neighbouring differences, (sum of d_k^2 + d_first^2 + d_last^2) / (2 n^2): what varies slowly along the path is
    no error of evenly spread points. The ends have one neighbour only, and the noisiest draw is often an end; counting
    their differences twice makes the error too large rather than too small.
    """
    if len(draws) < 2:
        return None
    squares = draws.diff(dim=0).square()
    return ((reduce(torch.add, squares) + squares[0] + squares[-1]) / 2).sqrt() / len(draws)
