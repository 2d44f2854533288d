"""Euclidean distances of many pairs: float32 products per block, and float64 differences where rounding decides.

|x|^2 + |y|^2 - 2 x.y in float32 is fast and wrong by some 1e-6 of the squared norms, which matters for duplicates and
on the boundary of a ball. So blocks hold lower bounds, the bound of the error is known, and whoever compares takes
`exact` for the pairs that it leaves open: answers are those of float64 and do not hang on the last bits of a product.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluate.statistics import Array

Floats = NDArray[np.floating]
Index = NDArray[np.int64]

BLOCK_ROWS = 1024
BLOCK_VALUES = 1 << 24
CHUNK_VALUES = 1 << 22
SMALLEST_NORM = 2.0**-80
"""Squared norm, in units of the largest value, below which float32 would lose it; float64 is taken instead."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as they were given, and shifted and scaled for products, in float32 unless their range is too large.

    Attributes:
        given: `(n, dim)`, float32 or float64.
        shifted: `(n, dim)`, (given - centre) * scale; the scale is a power of two and common to all sets that meet.
        norms: squared norms of `shifted`, `(n,)`.
        scale: squared distances of `shifted` are `scale**2` times those of the rows.
    """

    given: Floats
    shifted: Floats
    norms: Floats
    scale: float

    def __len__(self) -> int:
        return len(self.given)

    @property
    def error(self) -> float:
        """Bound of the error of a squared distance in units of the sum of both squared norms.

        Rounding of both inputs, and of the sum of products, whose partial sums round independently: several times
        their standard deviation.
        """
        return float(np.finfo(self.shifted.dtype).eps) * (8.0 + 4.0 * self.given.shape[1] ** 0.5)


def checked(rows: ArrayLike, name: str) -> Floats:
    """Rows (n, dim) as float32 or float64.

    Raises:
        ValueError: another number of axes, no row, NaN or infinity.
    """
    x = np.asarray(rows)
    if x.dtype.name not in ("float32", "float64"):
        x = x.astype(np.float64)
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"{name} must be (n >= 1, dim), found shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} hold NaN or infinity")
    return x


def prepared(*sets: Floats) -> tuple[Rows, ...]:
    """Sets of rows around the mean of the first set, in one common scale.

    Raises:
        ValueError: the sets have different numbers of features.
    """
    dims = sorted({x.shape[1] for x in sets})
    if len(dims) != 1:
        raise ValueError(f"rows of {' and '.join(map(str, dims))} dimensions have no distance")
    centre = sets[0].mean(axis=0, dtype=np.float64)
    _, exponent = np.frexp(max(float(np.maximum(x.max(initial=0.0), -x.min(initial=0.0))) for x in sets))
    scale = float(np.ldexp(1.0, -max(int(exponent), -100)))
    rows = tuple(_shifted(x, centre, scale, np.dtype(np.float32)) for x in sets)
    if min(float(side.norms.min()) for side in rows) < SMALLEST_NORM:
        rows = tuple(_shifted(x, centre, scale, np.dtype(np.float64)) for x in sets)
    return rows


def lower_bounds(x: Rows, y: Rows, *, is_triangle: bool = False) -> Iterator[tuple[slice, Floats]]:
    """Blocks of rows of x, and lower bounds of their squared distances to all of y, in the common scale.

    The distance lies between the bound and the bound plus `error_span`. With `is_triangle`, x being y, a block begins
    with the column of its first row: what is left out is the mirror image of earlier blocks.
    """
    shrink = x.shifted.dtype.type(1.0 - x.error)
    num = max(1, min(BLOCK_ROWS, BLOCK_VALUES // len(y)))
    for start in range(0, len(x), num):
        rows = slice(start, min(start + num, len(x)))
        first = start if is_triangle else 0
        block: Floats = -2.0 * x.shifted[rows] @ y.shifted[first:].T
        block += (x.norms[rows] * shrink)[:, None]
        block += y.norms[first:] * shrink
        yield rows, block


def error_span(x: Rows, y: Rows, pairs: tuple[Index, Index]) -> Floats:
    """What a squared distance is at most above its lower bound, for pairs (rows of x, rows of y)."""
    return 2.0 * x.error * (x.norms[pairs[0]] + y.norms[pairs[1]])


def exact(x: Rows, y: Rows, pairs: tuple[Index, Index]) -> Array:
    """Squared distances of pairs (rows of x, rows of y) in units of the rows, from float64 differences."""
    chunk = max(1, CHUNK_VALUES // max(1, x.given.shape[1]))
    found = np.zeros(len(pairs[0]))
    differ = np.flatnonzero((x.norms[pairs[0]] > 0.0) | (y.norms[pairs[1]] > 0.0))  # else both are at the centre
    for start in range(0, len(differ), chunk):
        part = differ[start : start + chunk]
        difference = x.given[pairs[0][part]].astype(np.float64) - y.given[pairs[1][part]]
        found[part] = np.einsum("nd,nd->n", difference, difference)
    return found


def candidates(x: Rows, y: Rows, num: int) -> tuple[Array, Index]:
    """The `num` smallest lower bounds of every row of x and their rows of y, `(n, num)` each, in no order.

    Where y has fewer rows, what is missing has bound inf and row 0.
    """
    bounds, index = _nothing(len(x), num)
    for rows, block in lower_bounds(x, y):
        bounds[rows], index[rows] = _smallest(block, num)
    return bounds, index


def own_candidates(x: Rows, num: int) -> tuple[Array, Index]:
    """As `candidates` within one set: a row is no neighbour of itself, and every product is computed once."""
    bounds, index = _nothing(len(x), num)
    for rows, block in lower_bounds(x, x, is_triangle=True):
        np.fill_diagonal(block, np.inf)
        below = slice(rows.stop, len(x))
        for into, part in ((rows, block), (below, block[:, rows.stop - rows.start :].T)):
            if into.start < into.stop:
                found, at = _smallest(part, num)
                found, merged = _smallest(np.hstack([bounds[into], found]), num)
                index[into] = np.take_along_axis(np.hstack([index[into], at + rows.start]), merged, axis=1)
                bounds[into] = found
    return bounds, index


def _shifted(x: Floats, centre: Array, scale: float, dtype: np.dtype[np.floating]) -> Rows:
    of_given = np.result_type(x.dtype, dtype)
    factor = of_given.type(scale)
    shifted, origin = np.empty(x.shape, dtype), centre.astype(of_given) * factor
    for start in range(0, len(x), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        shifted[rows] = x[rows] * factor - origin
    return Rows(x, shifted, np.einsum("nd,nd->n", shifted, shifted), scale)


def _nothing(n: int, num: int) -> tuple[Array, Index]:
    return np.full((n, num), np.inf), np.zeros((n, num), np.int64)


def _smallest(values: Floats, num: int) -> tuple[Array, Index]:
    """The `num` smallest values of every row and their columns, filled up with inf and 0."""
    count = min(num, values.shape[1])
    found = torch.topk(torch.from_numpy(np.ascontiguousarray(values)), count, dim=1, largest=False, sorted=False)
    bounds, index = _nothing(len(values), num)
    bounds[:, :count], index[:, :count] = found.values.numpy(), found.indices.numpy()
    return bounds, index
