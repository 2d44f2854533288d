"""Picture sheets of results: one sheet per cell, and one that puts cells below each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.pixels import to_uint8
from pipeline.shards.sheets import contact_sheet, png_bytes

NUM_COLUMNS = 10


def cell_sheet(levels: NDArray[np.uint8], quantisation: int, *, num_images: int = 100) -> bytes:
    """PNG of the first images (n, C, H, W) of a cell, ten per line; small images enlarged without interpolation."""
    return png_bytes(contact_sheet(to_uint8(levels[:num_images], quantisation), num_columns=NUM_COLUMNS))


def comparison_sheet(cells: Sequence[NDArray[np.uint8]], quantisation: int) -> bytes:
    """PNG with one line per cell: its first ten images, so the same indices stand below each other.

    Cells that share a seed start from the same noise, so a column shows what the method makes of it.
    """
    lines = []
    for levels in cells:
        line = levels[:NUM_COLUMNS]
        missing = NUM_COLUMNS - len(line)
        lines.append(np.concatenate([line, np.zeros((missing, *levels.shape[1:]), np.uint8)]) if missing else line)
    return png_bytes(contact_sheet(to_uint8(np.concatenate(lines), quantisation), num_columns=NUM_COLUMNS))
