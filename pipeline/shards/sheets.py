"""Contact sheets: many small images as one PNG whose bytes depend on the pixels alone."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

GAP = 2
BORDER = 64  # grey between the tiles, so that black and white images both have an edge
MIN_TILE = 48


def contact_sheet(images: Pixels, *, num_columns: int = 10) -> Pixels:
    """Images (n, C, H, W) uint8, C in {1, 3}, in reading order on a grey canvas (height, width, C).

    Small images are enlarged by whole factors without interpolation, to at least `MIN_TILE` pixels a side.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"a sheet needs images (n >= 1, 1 or 3, H, W), found shape {images.shape}")
    factor = max(1, -(-MIN_TILE // max(images.shape[2:])))
    tiles = images.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    num_columns = min(num_columns, len(tiles))
    num_rows = -(-len(tiles) // num_columns)
    height, width, channels = tiles.shape[1:]
    canvas = np.full((num_rows * (height + GAP) + GAP, num_columns * (width + GAP) + GAP, channels), BORDER, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // num_columns * (height + GAP), GAP + i % num_columns * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def scatter_sheet(points: NDArray[np.float32], *, size: int = 256, limit: float = 1.5) -> Pixels:
    """Points (n, 2) as a grey density picture (size, size, 1) of the square [-limit, limit]^2, y upwards."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"a scatter picture needs points (n, 2), found shape {points.shape}")
    edges = np.linspace(-limit, limit, size + 1)
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))
    brightness = np.sqrt(counts / max(counts.max(), 1.0)) * 255.0
    return brightness[::-1].round().astype(np.uint8)[:, :, None]


def png_bytes(canvas: Pixels) -> bytes:
    """Canvas (height, width, 1 or 3) as PNG, without time or text chunks."""
    picture = Image.fromarray(canvas[:, :, 0] if canvas.shape[2] == 1 else canvas)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
