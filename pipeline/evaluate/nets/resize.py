"""Images to the size Inception reads, by the three rules in use; each makes a metric of its own.

All take levels uint8 `(n, 3, H, W)` and return float32 `(n, 3, 299, 299)` in units of levels, [0, 255].
"""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pipeline.evaluate.nets.inception import INPUT_SIZE

MAX_MAGNITUDE = 10.0
"""Values of x beyond this are no images in [-1, 1] that a sampler left a little; they are of another range."""


def to_rgb_levels(x: Tensor) -> Tensor:
    """Levels clip(floor(127.5 x + 128), 0, 255), the nearest of 256; grey images get three equal channels.

    Args:
        x: float `(n, 1 or 3, H, W)`, data range [-1, 1]; what lies a little outside is clipped.

    Returns:
        uint8 `(n, 3, H, W)`.

    Raises:
        ValueError: another shape or type, values that are not finite, or images of another range.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {tuple(x.shape)}; a feature net reads (n, 1, H, W) or (n, 3, H, W)")
    if not x.is_floating_point():
        raise ValueError(f"images of type {x.dtype}; a feature net reads floats in [-1, 1]")
    if x.numel() > 0:
        largest = float(x.abs().max())
        if not largest <= MAX_MAGNITUDE:
            raise ValueError(f"images with values up to {largest:g}; a feature net reads finite floats in [-1, 1]")
    levels = (127.5 * x.float() + 128.0).floor().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


def tf1_resize(levels: Tensor) -> Tensor:
    """Bilinear as in TensorFlow 1: output pixel i reads at i n / 299, corners at the top left, no half-pixel shift.

    Two matrix products in float32, along x and then along y; they round otherwise than the direct formula (< 1e-4).
    """
    height, width = levels.shape[-2:]
    along_x = _tf1_weights(width).to(levels.device)
    along_y = _tf1_weights(height).to(levels.device)
    return along_y @ (levels.float() @ along_x.T)


def clean_resize(levels: Tensor) -> Tensor:
    """Pillow's bicubic on each channel as floats, antialiased when shrinking, clipped, not rounded to levels again.

    Parmar et al. 2022 ("clean-fid"). Last digits depend on the version of Pillow.
    """
    planes = levels.flatten(0, 1).cpu().numpy().astype(np.float32)
    resized = np.empty((len(planes), INPUT_SIZE, INPUT_SIZE), np.float32)
    for plane, target in zip(planes, resized, strict=True):
        image = Image.fromarray(plane).resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC)
        target[:] = np.asarray(image).clip(0, 255)
    return torch.from_numpy(resized).unflatten(0, tuple(levels.shape[:2])).to(levels.device)


def torch_resize(levels: Tensor) -> Tensor:
    """Bilinear between pixel centres without antialiasing, as PyTorch and the FID code built on it do."""
    return functional.interpolate(levels.float(), (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)


@lru_cache(maxsize=16)
def _tf1_weights(length: int) -> Tensor:
    """Interpolation matrix (299, length), float32; positions are float32 products as in the original."""
    position = np.arange(INPUT_SIZE, dtype=np.float32) * np.float32(length / INPUT_SIZE)
    low = position.astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    share = position - low.astype(np.float32)
    weights = np.zeros((INPUT_SIZE, length), np.float32)
    rows = np.arange(INPUT_SIZE)
    weights[rows, low] = 1.0 - share
    weights[rows, high] += share
    return torch.from_numpy(weights)
