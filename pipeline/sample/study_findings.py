"""What a study returns, and how its images become pixels of a figure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.shards import to_levels

MAX_ROWS = 8
PARTNER = 1 << 32
"""Image index of a partner less that of its image: outside every set, and the same pairs however many there are."""
GREY_LEVELS = 256
"""Of the figures, whatever the data have."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Findings:
    """Numbers for a JSON file, arrays for an npz, and PNG figures by file name."""

    numbers: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    figures: dict[str, bytes]


def pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images (rows, columns, C, H, W) in [-1, 1], clipped, as grey or colour values."""
    return to_levels(images.detach().float().cpu().numpy(), GREY_LEVELS)
