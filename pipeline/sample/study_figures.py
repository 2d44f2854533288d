"""Figures of studies: labelled sheets of images and charts per step, as PNG whose bytes depend on content alone."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.shards.sheets import GAP, contact_sheet

DPI = 100
MARGIN = 14  # pixels around everything
FONT = "DejaVu Sans"  # comes with matplotlib, so a figure looks the same everywhere
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
LINE, REFERENCE = "#1d5fa8", "#c2571a"
GROUP_GAP = 16  # pixels between groups of columns
MIN_WIDTH = 520

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbouring columns of a sheet.

    Attributes:
        images: `(rows, columns, C, H, W)` uint8, C in {1, 3}.
        labels: of the columns, shortest possible.
        title: above the columns, or empty.
    """

    images: Pixels
    labels: Sequence[str]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One quantity per step.

    Attributes:
        ylabel: what and in which unit.
        means: `(steps,)`; NaN where there is none. errors: `(steps,)` standard errors; NaN where there are none.
        reference: a horizontal line with its label, or None.
        note: a short text inside the panel.
    """

    ylabel: str
    means: Array
    errors: Array
    reference: tuple[float, str] | None = None
    note: str = ""


def image_sheet(
    groups: Sequence[Group], *, title: str, caption: str = "", row_labels: Sequence[str] = (), xlabel: str = ""
) -> bytes:
    """Images in rows and labelled columns, each pixel of the sheet one pixel of the picture.

    Args:
        groups: columns from left to right; all have the same number of rows.
        title: headline.
        caption: one line below the headline that says what is seen.
        row_labels: one per row, or none at all.
        xlabel: what the labels of the columns are.
    """
    sheets = [_grid(group.images) for group in groups]
    height = sheets[0].shape[0]
    width = sum(sheet.shape[1] for sheet in sheets) + GROUP_GAP * (len(sheets) - 1)
    has_titles = any(group.title for group in groups)
    left = MARGIN + (8 + int(7.2 * max(map(len, row_labels))) if row_labels else 0)
    text = max(_text_width(title, 12, bold=True), _text_width(caption, 9), _text_width(xlabel, 9))
    total_width = max(left + width + MARGIN, text + 2 * MARGIN, MIN_WIDTH)
    top = MARGIN + 22 + (20 if caption else 0) + (20 if has_titles else 0) + 6
    bottom = MARGIN + 16 + (18 if xlabel else 0)
    total_height = top + height + bottom
    figure = _figure(total_width, total_height)
    _write(figure, MARGIN, total_height - MARGIN - 12, title, size=12, bold=True)
    if caption:
        _write(figure, MARGIN, total_height - MARGIN - 34, caption, size=9, color=MUTED)
    x = left
    for group, sheet in zip(groups, sheets, strict=True):
        figure.figimage(np.broadcast_to(sheet, (*sheet.shape[:2], 3)), xo=x, yo=bottom, origin="upper")
        pitch = (sheet.shape[1] - GAP) / group.images.shape[1]
        centre = GAP / 2 + pitch / 2
        for column, label in enumerate(group.labels):
            _write(figure, x + centre + column * pitch, bottom - 12, label, size=8, color=MUTED, align="center")
        if group.title:
            middle = x + sheet.shape[1] / 2
            _write(figure, middle, bottom + height + 10, group.title, size=9, align="center")
        x += sheet.shape[1] + GROUP_GAP
    pitch = (height - GAP) / groups[0].images.shape[0]
    for row, label in enumerate(row_labels):
        y = bottom + height - GAP / 2 - pitch * (row + 0.5)
        _write(figure, left - 8, y, label, size=8, color=MUTED, align="right")
    if xlabel:
        middle = max(left + width / 2, MARGIN + _text_width(xlabel, 9) / 2)
        _write(figure, middle, MARGIN + 2, xlabel, size=9, align="center")
    return _png(figure)


def step_chart(
    panels: Sequence[Panel], labels: Sequence[str], *, title: str, caption: str = "", xlabel: str = "step"
) -> bytes:
    """Quantities per step with error bars, one panel below the other.

    Args:
        panels: from top to bottom.
        labels: of the steps, in order.
        title: headline.
        caption: one line below the headline.
        xlabel: what the steps are.
    """
    panel_height, between, top, bottom, left = 190, 22, MARGIN + (48 if caption else 28), 58, 82
    width = max(
        640,
        MARGIN + left + 26 * len(labels),
        max(_text_width(title, 12, bold=True), _text_width(caption, 9)) + 2 * MARGIN,
    )
    height = top + bottom + len(panels) * panel_height + (len(panels) - 1) * between
    figure = _figure(width, height)
    _write(figure, MARGIN, height - MARGIN - 10, title, size=12, bold=True)
    if caption:
        _write(figure, MARGIN, height - MARGIN - 31, caption, size=9, color=MUTED)
    steps = np.arange(len(labels))
    for row, panel in enumerate(panels):
        y = bottom + (len(panels) - 1 - row) * (panel_height + between)
        axes = figure.add_axes((left / width, y / height, (width - left - MARGIN) / width, panel_height / height))
        _draw(axes, panel, steps)
        is_last = row == len(panels) - 1
        _label_steps(axes, labels if is_last else [""] * len(labels), xlabel if is_last else "")
    return _png(figure)


def _draw(axes: Axes, panel: Panel, steps: NDArray[np.int64]) -> None:
    known = np.isfinite(panel.means)
    errors = np.where(np.isfinite(panel.errors), panel.errors, 0.0)
    axes.errorbar(
        steps[known],
        panel.means[known],
        yerr=errors[known],
        color=LINE,
        marker="o",
        markersize=4,
        linewidth=1.6,
        elinewidth=1.2,
        capsize=3,
    )
    highest = float((panel.means + errors)[known].max()) if known.any() else 1.0
    if panel.reference is not None:
        value, label = panel.reference
        axes.axhline(value, color=REFERENCE, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            label,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=REFERENCE,
            fontproperties=_font(8),
        )
        highest = max(highest, value)
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_ylim(0.0, highest * 1.18 if highest > 0 else 1.0)
    axes.set_ylabel(panel.ylabel, color=INK, fontproperties=_font(9))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if panel.note:
        axes.annotate(
            panel.note,
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(6, -6),
            textcoords="offset points",
            ha="left",
            va="top",
            color=MUTED,
            fontproperties=_font(8),
        )
    axes.set_facecolor("white")
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)


def _label_steps(axes: Axes, labels: Sequence[str], xlabel: str) -> None:
    every = -(-len(labels) // 24)
    ticks = list(range(0, len(labels), every))
    axes.set_xticks(ticks, [labels[i] for i in ticks])
    axes.tick_params(colors=MUTED, width=0.8, length=3)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_fontproperties(_font(8))
    axes.set_xlabel(xlabel, color=INK, fontproperties=_font(9))


def _grid(images: Pixels) -> Pixels:
    rows, columns = images.shape[:2]
    return contact_sheet(images.reshape(rows * columns, *images.shape[2:]), num_columns=columns)


def _figure(width: int, height: int) -> Figure:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    color: str = INK,
    align: str = "left",
    bold: bool = False,
) -> None:
    """Text at a pixel position counted from the lower left corner, centred vertically."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, y / height, text, color=color, ha=align, va="center", fontproperties=_font(size, bold=bold))


def _font(size: float, *, bold: bool = False) -> FontProperties:
    return FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")


def _text_width(text: str, size: float, *, bold: bool = False) -> int:
    """Upper estimate of a line's width in pixels."""
    return int(len(text) * size * (0.95 if bold else 0.84) * DPI / 100)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()
