"""The picture that a person looks at first: the beginning of a block as one PNG."""

import numpy as np

from pipeline.shards.pixels import to_uint8
from pipeline.shards.sheets import contact_sheet, png_bytes, scatter_sheet

NUM_PREVIEWS = 100


def preview(images: np.ndarray, quantisation: int | None) -> bytes | None:
    """PNG of the first 100 images (n, C, H, W), or of all points (n, 2); None for data without a picture."""
    if len(images) == 0:
        return None
    if quantisation is not None and images.ndim == 4 and images.shape[1] in (1, 3):
        return png_bytes(contact_sheet(to_uint8(images[:NUM_PREVIEWS], quantisation)))
    if images.ndim == 2 and images.shape[1] == 2:
        return png_bytes(scatter_sheet(images))
    return None
