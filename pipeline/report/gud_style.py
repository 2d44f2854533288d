"""How the figures of a GUD study look: a canvas measured in hundredths of an inch, fonts, colours and axes."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNITS = 100
"""Units of length per inch."""
CHART_DPI = 160
MARGIN = 14
FONT = "DejaVu Sans"  # comes with matplotlib, so a figure looks the same everywhere
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
REFERENCE = "#1d5fa8"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d")
"""Told apart by colour-blind readers too (Okabe & Ito 2008), and two more."""
NONE_COLOUR = "#d8dce1"
_LINE = {12: 20, 9: 16, 8: 14}
_TITLE, _CAPTION = 12, 9


class Canvas:
    """A white page; lengths in hundredths of an inch, positions from the upper left corner.

    Args:
        width: of the page.
        height: of the page below title and caption.
        title: headline.
        caption: what is seen, wrapped to the width.
    """

    def __init__(self, width: float, height: float, *, title: str, caption: str = "") -> None:
        lines = wrapped(caption, width - 2 * MARGIN)
        self.top = MARGIN + _LINE[_TITLE] + _LINE[_CAPTION] * len(lines) + 10
        self.width = max(width, text_width(title, _TITLE, bold=True) + 2 * MARGIN)
        self.height = self.top + height
        self.figure = Figure(figsize=(self.width / UNITS, self.height / UNITS), dpi=UNITS, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.write(MARGIN, MARGIN + 8 - self.top, title, size=_TITLE, bold=True)
        for row, line in enumerate(lines):
            self.write(MARGIN, MARGIN + 28 + row * _LINE[_CAPTION] - self.top, line, size=_CAPTION, color=MUTED)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner lies `top` below the caption."""
        bottom = self.height - self.top - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 9,
        color: str = INK,
        align: str = "left",
        bold: bool = False,
    ) -> None:
        """Text centred vertically `y` below the caption."""
        height = 1 - (self.top + y) / self.height
        font = font_of(size, bold=bold)
        self.figure.text(x / self.width, height, text, color=color, ha=align, va="center", fontproperties=font)

    def picture(self, pixels: NDArray[np.uint8], x: float, y: float) -> None:
        """An image `(height, width, 1 or 3)`, one pixel per unit, with its upper left corner at (x, y)."""
        bottom = self.height - self.top - y - pixels.shape[0]
        self.figure.figimage(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), xo=int(x), yo=int(bottom), origin="upper")

    def png(self, *, dpi: int = CHART_DPI) -> bytes:
        """The page as PNG, whose bytes depend on content alone; pictures need dpi = `UNITS`."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
        return buffer.getvalue()


def font_of(size: float, *, bold: bool = False) -> FontProperties:
    """The one font."""
    return FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Upper estimate of a line's width."""
    return len(text) * size * (0.95 if bold else 0.82)


def wrapped(text: str, width: float, size: float = _CAPTION) -> list[str]:
    """Lines no wider than `width`."""
    return textwrap.wrap(text, max(int(width / (size * 0.76)), 20))


def styled(axes: Axes, *, xlabel: str = "", ylabel: str = "", grid: bool = True, size: float = 9) -> Axes:
    """Axes with labels (units in them), quiet lines on the left and below, and a quiet grid."""
    axes.set_facecolor("white")
    axes.set_xlabel(xlabel, color=INK, fontproperties=font_of(size))
    axes.set_ylabel(ylabel, color=INK, fontproperties=font_of(size))
    quiet_ticks(axes, size=size - 1)
    if grid:
        axes.grid(visible=True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    return axes


def quiet_ticks(axes: Axes, *, size: float = 8) -> None:
    """Small ticks with grey labels."""
    axes.tick_params(colors=MUTED, width=0.8, length=3, labelsize=size, labelfontfamily=FONT)


def legend(axes: Axes, handles: Sequence[Artist], **where: Any) -> Legend:
    """A legend without a frame, entries named by their own labels; `where` places it outside the data."""
    options: dict[str, Any] = {"frameon": False, "prop": font_of(8.5), "labelcolor": INK, "borderaxespad": 0.0}
    return axes.legend(handles=list(handles), **{**options, **where})
