"""Strips of images on their way from data to prior, one block per kind of process (GUD figure 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.gud_style import MARGIN, MUTED, UNITS, Canvas, text_width
from pipeline.shards.sheets import GAP, contact_sheet

_ABOVE, _BELOW, _LABELS = 24, 16, 36
_MIN_TILE = 72


@dataclass(frozen=True, eq=False)
class Strip:
    """One kind of process.

    Attributes:
        title: what it is.
        images: `(rows, columns, C, H, W)` uint8, C in {1, 3}: every row one image at all times.
    """

    title: str
    images: NDArray[np.uint8]


def strip_sheet(strips: Sequence[Strip], labels: Sequence[str], *, title: str, caption: str = "") -> bytes:
    """PNG: the strips below each other with the times below the last; each pixel a whole number of pixels.

    Args:
        strips: at least one; all with as many columns as there are labels.
        labels: of the columns: the times t.
        title: headline.
        caption: what is seen.
    """
    sheets = [contact_sheet(_enlarged(strip.images), num_columns=len(labels)) for strip in strips]
    widest = max(text_width(title, 12, bold=True), *(text_width(strip.title, 9, bold=True) for strip in strips))
    width = max(sheets[0].shape[1], widest) + 2 * MARGIN
    height = sum(_ABOVE + sheet.shape[0] + _BELOW for sheet in sheets) + _LABELS
    canvas = Canvas(width, height, title=title, caption=caption)
    y = 0
    for strip, sheet in zip(strips, sheets, strict=True):
        canvas.write(MARGIN, y + 10, strip.title, size=9, bold=True)
        y += _ABOVE
        canvas.picture(sheet, MARGIN, y)
        y += sheet.shape[0] + _BELOW
    pitch = (sheets[0].shape[1] - GAP) / len(labels)
    for column, label in enumerate(labels):
        x = MARGIN + GAP / 2 + (column + 0.5) * pitch
        canvas.write(x, y - 4, label, size=8, color=MUTED, align="center")
    canvas.write(MARGIN + sheets[0].shape[1] / 2, y + 14, "t  (0: data, 1: prior)", size=9, align="center")
    return canvas.png(dpi=UNITS)


def _enlarged(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows after rows, `(n, C, H, W)`, with tiles of at least `_MIN_TILE` pixels."""
    factor = -(-_MIN_TILE // max(images.shape[3:]))
    flat = images.reshape(-1, *images.shape[2:])
    return flat.repeat(factor, axis=2).repeat(factor, axis=3)
