"""Sums over a shard that merge in any order: exact integers for quantised data, so that even the last bits agree."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.shards.pixels import to_float

_INT8_ROWS = 65536  # rows per int8 product: 2^14 * 65536 = 2^30 stays below the int32 limit


@dataclass(frozen=True)
class Moments:
    """First and second sums of the samples of one split.

    Levels are centred at q // 2 before they are summed, points are not. Quantised data give int64, points float64.

    Attributes:
        count: number of samples.
        total: `(D,)`, sum of values.
        squares: `(D,)`, sum of squared values.
        products: `(D, D)`, sum of outer products, or None above the covariance limit.
        classes: `(num_classes,)` int64, samples per class, or None.
    """

    count: int
    total: np.ndarray
    squares: np.ndarray
    products: np.ndarray | None
    classes: np.ndarray | None

    def merged(self, other: "Moments") -> "Moments":
        """Sums over the samples of both."""
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            None if self.products is None or other.products is None else self.products + other.products,
            None if self.classes is None or other.classes is None else self.classes + other.classes,
        )

    def mean(self, quantisation: int | None) -> np.ndarray:
        """Mean `(D,)`, float64, in the units of `to_float`."""
        mean = self.total / self.count
        if quantisation is None:
            return mean
        return (mean + quantisation // 2 + 0.5) * (2.0 / quantisation) - 1.0

    def variances(self, quantisation: int | None) -> np.ndarray:
        """Variance of each value `(D,)`, divided by the count, without floor, float64."""
        centred = self._centred(self.squares, self.total * self.total)
        return np.maximum(centred * _step(quantisation) ** 2, 0.0)

    def covariance(self, quantisation: int | None) -> np.ndarray:
        """Covariance `(D, D)`, divided by the count, without floor, float64, exactly symmetric."""
        assert self.products is not None
        return self._centred(self.products, np.multiply.outer(self.total, self.total)) * _step(quantisation) ** 2

    def _centred(self, second: np.ndarray, first_squared: np.ndarray) -> np.ndarray:
        """E[v w] - E[v] E[w]: one rounding at the end while n^2 2^14 fits int64 (n up to 2^24 samples)."""
        if second.dtype == np.int64 and self.count < 2**24:
            return (self.count * second - first_squared) / float(self.count) ** 2
        return second / self.count - first_squared / float(self.count) ** 2


def moments_of(
    images: np.ndarray, labels: np.ndarray | None, *, quantisation: int | None, num_classes: int | None, is_full: bool
) -> Moments:
    """The sums over `images` (levels `(n, ...)` uint8, or points float32).

    Args:
        images: samples as stored.
        labels: int64 `(n,)` or None.
        quantisation: number of levels, or None for points.
        num_classes: length of the class counts.
        is_full: also sum the outer products, `(D, D)`.
    """
    flat = images.reshape(len(images), -1)
    classes = None if labels is None or num_classes is None else np.bincount(labels, minlength=num_classes)
    if quantisation is None:
        values = flat.astype(np.float64)
        products = values.T @ values if is_full else None
        return Moments(len(flat), values.sum(axis=0), np.square(values).sum(axis=0), products, classes)
    centred = (flat.astype(np.int16) - quantisation // 2).astype(np.int8)
    total = centred.sum(axis=0, dtype=np.int64)
    squares = np.square(centred, dtype=np.int16).sum(axis=0, dtype=np.int64)
    return Moments(len(flat), total, squares, _products(centred) if is_full else None, classes)


def _products(centred: np.ndarray) -> np.ndarray:
    """Sum of outer products of int8 rows, exact: int8 products in int32, chunks in int64."""
    summed = torch.zeros(centred.shape[1], centred.shape[1], dtype=torch.int64)
    for chunk in torch.from_numpy(centred).split(_INT8_ROWS):
        summed += torch.ops.aten._int_mm(chunk.T.contiguous(), chunk)
    return summed.numpy()


@dataclass(frozen=True)
class ComponentMoments:
    """Sums over the components of one basis, float64; merged in shard order."""

    count: int
    total: np.ndarray
    squares: np.ndarray

    def merged(self, other: "ComponentMoments") -> "ComponentMoments":
        """Sums over the samples of both."""
        return ComponentMoments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def variances(self) -> np.ndarray:
        """Variance of each component `(D,)`, divided by the count, without floor."""
        return np.maximum(self.squares / self.count - np.square(self.total / self.count), 0.0)


def component_moments_of(
    images: np.ndarray, *, basis: str, shape: tuple[int, ...], quantisation: int | None, chunk: int = 1024
) -> ComponentMoments:
    """The sums over the components of `images` in a basis that is not fitted."""
    from pipeline.diffusion.bases import build_basis

    built = build_basis(basis, shape)
    total, squares = torch.zeros(built.dim, dtype=torch.float64), torch.zeros(built.dim, dtype=torch.float64)
    for start in range(0, len(images), chunk):
        x = torch.from_numpy(to_float(images[start : start + chunk], quantisation)).double()
        components = built.to_components(x)
        total += components.sum(dim=0)
        squares += components.square().sum(dim=0)
    return ComponentMoments(len(images), total.numpy(), squares.numpy())


def _step(quantisation: int | None) -> float:
    return 1.0 if quantisation is None else 2.0 / quantisation
