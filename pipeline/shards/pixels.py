"""Levels k in 0 .. q-1 and the interval [-1, 1]: bin k of q equal bins is [2k/q - 1, 2(k+1)/q - 1).

q is 256 for 8-bit images and 17 for the handwritten digits; None marks points, which pass through unchanged.
Every function takes numpy arrays and torch tensors and answers in kind.
"""

from typing import Any, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)

# Distance that u keeps from bin edges, in bins. Float32 holds k + u in steps of 2^-16 (k < 256), and when q is a power
# of two the rest is exact; otherwise 2 (k + u) / q - 1 is rounded at both edges, by less than 2^-12 of a bin.
_EXACT_MARGIN = 2.0**-16
_ROUNDED_MARGIN = 2.0**-12


def to_float(images: Array, quantisation: int | None) -> Array:
    """Bin centres 2 (k + 1/2) / q - 1, float32; the mean of `dequantise` over u.

    Args:
        images: levels, uint8, any shape; or float points if `quantisation` is None.
        quantisation: number of levels q, or None.
    """
    values = _as(images, "float32")
    if quantisation is None:
        return values
    return values * (2.0 / quantisation) + (1.0 / quantisation - 1.0)


def dequantise(images: Array, quantisation: int | None, u: Array) -> Array:
    """Uniform dequantisation 2 (k + u) / q - 1, float32 in [-1, 1).

    Args:
        images: levels, uint8, any shape; or float points if `quantisation` is None (u is then ignored).
        quantisation: number of levels q, or None.
        u: uniform in [0, 1), float32, of the shape of `images`; clipped to stay off bin edges that float32
            cannot hold, so that `to_levels` is the exact inverse.
    """
    values = _as(images, "float32")
    if quantisation is None:
        return values
    is_power_of_two = quantisation & (quantisation - 1) == 0
    low, high = (0.0, _EXACT_MARGIN) if is_power_of_two else (_ROUNDED_MARGIN, _ROUNDED_MARGIN)
    inside = u.clip(low, 1.0 - high)
    return (values + inside) * (2.0 / quantisation) - 1.0


def to_levels(x: Array, quantisation: int | None) -> Array:
    """Levels clip(floor((x + 1) q / 2), 0, q - 1), uint8; the exact inverse of `to_float` and `dequantise`.

    Args:
        x: float, any shape, data range [-1, 1]; values outside are clipped. NaN is an error of the caller.
        quantisation: number of levels q; None passes points through as float32.
    """
    if quantisation is None:
        return _as(x, "float32")
    levels = (_as(x, "float64") + 1.0) * (quantisation / 2.0)
    floored: Any = levels.floor() if isinstance(levels, torch.Tensor) else np.floor(levels)
    return _as(floored.clip(0, quantisation - 1), "uint8")


def to_uint8(levels: Array, quantisation: int) -> Array:
    """Grey values for PNG files, round(k 255 / (q - 1)), uint8; level 0 is black and level q - 1 white."""
    if quantisation == 256:
        return _as(levels, "uint8")
    scaled: Any = _as(levels, "float64") * (255.0 / (quantisation - 1))
    return _as(scaled.round(), "uint8")


def _as(values: Array, dtype: str) -> Array:
    if isinstance(values, torch.Tensor):
        return values.to(getattr(torch, dtype))
    return np.asarray(values).astype(dtype, copy=False)
