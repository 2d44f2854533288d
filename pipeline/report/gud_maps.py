"""A metric over softness_a and ordering_r as heat maps with a zoom below each, one colour scale (GUD figure 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize, PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from pipeline.report.gud_curves import STANDARD_A
from pipeline.report.gud_style import (
    INK,
    MARGIN,
    MUTED,
    NONE_COLOUR,
    Array,
    Canvas,
    font_of,
    legend,
    quiet_ticks,
    styled,
    text_width,
    wrapped,
)

COLOUR_MAP = "viridis_r"
"""Low (good) values are light, so that dots and rings are seen on them."""
LOG_RATIO = 20.0
"""Values that spread by more are shown on a logarithmic scale."""
MAX_COLUMNS = 4
_WIDTH, _HEIGHT, _LEFT, _RIGHT = 270, 240, 62, 14
_BETWEEN, _BELOW = 74, 52
_LABEL, _LABEL_LINE = 9.5, 13
_LEGEND_LINE, _BAR = 24, 96
_RING = "#d1185c"


class State(IntEnum):
    """Of a place of the lattice."""

    OUTSIDE = 0  # the study has no such point
    MEASURED = 1
    NOT_PROMOTED = 2  # measured at an earlier rung only
    UNFINISHED = 3


@dataclass(frozen=True, eq=False)
class Lattice:
    """Values on a rectangle of points.

    Attributes:
        softness_a: `(n,)` rising. ordering_r: `(m,)` rising.
        values: `(m, n)`, NaN unless measured.
        states: `(m, n)` of `State`.
    """

    softness_a: Array
    ordering_r: Array
    values: Array
    states: NDArray[np.int8]

    @property
    def edges(self) -> tuple[Array, Array]:
        """Borders of the cells, `(n + 1,)` and `(m + 1,)`: half way to the neighbours."""
        return _edges(self.softness_a), _edges(self.ordering_r)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Outer borders: left, right, bottom, top."""
        a, r = self.edges
        return float(a[0]), float(a[-1]), float(r[0]), float(r[-1])

    def best(self) -> tuple[float, float, float] | None:
        """softness_a, ordering_r and value of the lowest point."""
        if not np.isfinite(self.values).any():
            return None
        row, column = np.unravel_index(int(np.nanargmin(self.values)), self.values.shape)
        return float(self.softness_a[column]), float(self.ordering_r[row]), float(self.values[row, column])

    def around(self, a: float, r: float) -> "Lattice":
        """The neighbourhood of a place: five points of a side, three of a short one."""
        rows, columns = (_near(axis, x) for axis, x in ((self.ordering_r, r), (self.softness_a, a)))
        return Lattice(
            self.softness_a[columns], self.ordering_r[rows], self.values[rows, columns], self.states[rows, columns]
        )


@dataclass(frozen=True, eq=False)
class MapPanel:
    """One map.

    Attributes:
        label: above it.
        coarse: the points of the whole range.
        fine: denser points inside a box, or None: the zoom then shows the neighbourhood of the lowest point.
        has_standard: whether softness_a = 1, ordering_r = 0 is standard diffusion here (standard prior).
    """

    label: str
    coarse: Lattice
    fine: Lattice | None = None
    has_standard: bool = False

    def best(self) -> tuple[float, float, float] | None:
        """softness_a, ordering_r and value of the lowest point of all."""
        found = [lattice.best() for lattice in (self.coarse, self.fine) if lattice is not None]
        return min((best for best in found if best is not None), key=lambda best: best[2], default=None)

    def zoom(self) -> Lattice | None:
        """What the panel below shows; None where nothing is measured."""
        best = self.best()
        if self.fine is not None or best is None:
            return self.fine
        return self.coarse.around(best[0], best[1])


def softness_maps(panels: Sequence[MapPanel], *, label: str, unit: str = "", title: str, caption: str = "") -> bytes:
    """PNG: the maps with zoom boxes, what is inside the boxes below, one colour bar for all.

    Colours are spread towards the low end (by the square root, or logarithmic), where the maps are read.

    Args:
        panels: at least one with a value.
        label: the metric with its unit, at the colour bar.
        unit: of the differences written into the zooms.
        title: headline.
        caption: what is seen.
    """
    columns = min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    pitch_x = _LEFT + _WIDTH + _RIGHT
    labels = [wrapped(panel.label, pitch_x - 2 * _RIGHT, 1.2 * _LABEL) for panel in panels]
    above = 13 + _LABEL_LINE * max(len(lines) for lines in labels)
    pitch_y = above + 2 * _HEIGHT + _BETWEEN + _BELOW
    width = max(MARGIN + columns * pitch_x + _BAR, text_width(title, 12, bold=True) + 2 * MARGIN)
    marks = _marks(panels)
    entries = [(text_width(str(mark.get_label()), 8.5) + 50) for mark in marks]
    in_line = max(1, min(len(marks), int((width - 2 * MARGIN) // max(entries))))
    legend_height = _LEGEND_LINE * -(-len(marks) // in_line)
    canvas = Canvas(width, rows * pitch_y + legend_height + 10, title=title, caption=caption)
    norm, is_cut = _norm(panels)
    for index, panel in enumerate(panels):
        x, y = MARGIN + index % columns * pitch_x + _LEFT, index // columns * pitch_y + above
        for number, line in enumerate(reversed(labels[index])):
            canvas.write(x + _WIDTH / 2, y - 14 - number * _LABEL_LINE, line, size=_LABEL, align="center", bold=True)
        whole = canvas.axes(x, y, _WIDTH, _HEIGHT)
        _draw(whole, panel, panel.coarse, norm)
        zoom = panel.zoom()
        if zoom is None:
            continue
        left, right, bottom, top = zoom.box
        outline: dict[str, Any] = {"fill": False, "edgecolor": INK, "linewidth": 1.4, "zorder": 4}
        whole.add_patch(Rectangle((left, bottom), right - left, top - bottom, **outline))
        below = canvas.axes(x, y + _HEIGHT + _BETWEEN, _WIDTH, _HEIGHT)
        step = _number_step(panel, zoom)
        _draw(below, panel, zoom, norm, step=step)
        kind = "finer points" if panel.fine is not None else "the box"
        note = f"{kind}: above the lowest, in 1e{round(np.log10(step))} {unit}".rstrip()
        canvas.write(x + _WIDTH / 2, y + _HEIGHT + _BETWEEN - 11, note, size=8, align="center", color=MUTED)
    bar = canvas.axes(MARGIN + columns * pitch_x + 12, above, 16, 2 * _HEIGHT + _BETWEEN)
    scale = canvas.figure.colorbar(ScalarMappable(norm, COLOUR_MAP), cax=bar, extend="max" if is_cut else "neither")
    scale.set_label(label, color=INK, fontproperties=font_of(9))
    scale.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    quiet_ticks(bar)
    below = canvas.axes(MARGIN, rows * pitch_y, width - 2 * MARGIN, legend_height)
    below.set_axis_off()
    legend(below, marks, loc="center left", ncols=in_line, bbox_to_anchor=(0.0, 0.5), columnspacing=1.6)
    return canvas.png()


def _draw(axes: Axes, panel: MapPanel, lattice: Lattice, norm: Normalize, *, step: float | None = None) -> None:
    """One lattice; with `step` the values above the lowest are written into it, in units of `step`."""
    a, r = lattice.edges
    left, right, bottom, top = lattice.box
    styled(axes, xlabel="softness_a", ylabel="ordering_r", grid=False)
    for row, column in np.argwhere(~np.isfinite(lattice.values)):
        if lattice.states[row, column] != State.OUTSIDE:
            (x, y), style = (float(a[column]), float(r[row])), _missing(int(lattice.states[row, column]))
            axes.add_patch(Rectangle((x, y), float(a[column + 1]) - x, float(r[row + 1]) - y, **style))
    values = np.ma.masked_invalid(lattice.values)
    mesh = axes.pcolormesh(a, r, values, cmap=COLOUR_MAP, norm=norm, edgecolors="white", linewidth=0.4)
    mesh.set_rasterized(True)
    best = panel.best()
    if step is not None and best is not None:
        _write_numbers(axes, lattice, (lattice.values - best[2]) / step, colours=mesh.get_cmap(), norm=norm)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xticks(_ticks(lattice.softness_a, 6))
    axes.set_yticks(_ticks(lattice.ordering_r, 9))
    axes.xaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_major_formatter("{x:.4g}")
    for spine in axes.spines.values():
        spine.set_visible(True)
    shares = (np.diff(a).min() / (right - left), np.diff(r).min() / (top - bottom))
    inside = min(shares[0] * _WIDTH, shares[1] * _HEIGHT) * 0.72  # of the smallest cell, in points
    if best is not None and _holds(lattice, best[0], best[1]):
        axes.plot([best[0]], [best[1]], zorder=6, clip_on=False, **_ring(12 if step is None else min(0.8 * inside, 24)))
    if panel.has_standard and _holds(lattice, STANDARD_A, 0.0):
        lift = 0.0 if step is None else min(0.34 * inside, 11)  # above its number
        dot = offset_copy(axes.transData, axes.figure, y=lift, units="points")  # pyright: ignore[reportArgumentType]
        axes.plot([STANDARD_A], [0.0], zorder=6, transform=dot, **_dot(7 if step is None else 5))


def _write_numbers(axes: Axes, lattice: Lattice, numbers: Array, *, colours: Colormap, norm: Normalize) -> None:
    size = 7 if lattice.values.size <= 25 else 6
    for row, column in np.argwhere(np.isfinite(numbers)):
        red, green, blue, _ = colours(norm(float(lattice.values[row, column])))
        is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.annotate(
            f"{numbers[row, column]:.0f}",
            (lattice.softness_a[column], lattice.ordering_r[row]),
            ha="center",
            va="center_baseline",
            color=INK if is_light else "white",
            fontproperties=font_of(size),
            zorder=5,
        )


def _number_step(panel: MapPanel, zoom: Lattice) -> float:
    """Power of ten in which the largest difference inside the zoom is between 20 and 200."""
    best = panel.best()
    assert best is not None
    largest = float(np.nanmax(zoom.values - best[2])) if np.isfinite(zoom.values).any() else 0.0
    return 10.0 ** np.floor(np.log10(largest) - 1.3) if largest > 0 else 1.0


def _marks(panels: Sequence[MapPanel]) -> list[Artist]:
    """What the marks mean, one legend entry each."""
    lattices = [part for panel in panels for part in (panel.coarse, panel.fine) if part is not None]
    states = {int(state) for lattice in lattices for state in lattice.states.flat}
    marks: list[Artist] = [Line2D([], [], label="lowest of a map", **_ring(11))]
    if any(panel.has_standard for panel in panels):
        marks.append(Line2D([], [], label="standard diffusion (a = 1, r = 0)", **_dot(7)))
    for state, label in ((State.NOT_PROMOTED, "not promoted"), (State.UNFINISHED, "not finished")):
        if state in states:
            marks.append(Patch(label=label, **_missing(state)))
    return marks


def _norm(panels: Sequence[MapPanel]) -> tuple[Normalize, bool]:
    """The common scale, and whether its upper end cuts off a few far values that would flatten all others."""
    values = [part.values.ravel() for panel in panels for part in (panel.coarse, panel.fine) if part is not None]
    finite = np.concatenate(values)
    finite = finite[np.isfinite(finite)]
    low, high = float(finite.min()), float(finite.max())
    if low > 0 and high / low > LOG_RATIO:
        return LogNorm(low, high), False
    usual = float(np.quantile(finite, 0.9))
    cut = usual + 2.0 * (usual - low)
    is_cut = high > cut > low
    return PowerNorm(0.5, low, cut if is_cut else max(high, float(np.nextafter(low, np.inf)))), is_cut


def _missing(state: int) -> dict[str, Any]:
    hatch = "///" if state == State.NOT_PROMOTED else "..."
    return {"facecolor": NONE_COLOUR, "edgecolor": "#aab2bd", "hatch": hatch, "linewidth": 0.0}


def _ring(size: float) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": "o",
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgecolor": _RING,
        "markeredgewidth": 2.0,
    }


def _dot(size: float) -> dict[str, Any]:
    return {"linestyle": "none", "marker": "o", "markersize": size, "color": "black", "markeredgecolor": "white"}


def _edges(places: Array) -> Array:
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    middle = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - middle[0]], middle, [2 * places[-1] - middle[-1]]])


def _near(axis: Array, place: float) -> slice:
    """The points next to the one closest to `place`; as many where the range ends."""
    reach = 2 if len(axis) > 5 else 1
    middle, size = int(np.abs(axis - place).argmin()), min(2 * reach + 1, len(axis))
    first = min(max(middle - reach, 0), len(axis) - size)
    return slice(first, first + size)


def _ticks(places: Array, most: int) -> Array:
    """The points themselves, every second or third where there are many."""
    return places[:: -(-len(places) // most)]


def _holds(lattice: Lattice, a: float, r: float) -> bool:
    left, right, bottom, top = lattice.box
    return left <= a <= right and bottom <= r <= top
