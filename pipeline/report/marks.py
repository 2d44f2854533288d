"""How marks are drawn: one colour per model, filled or open, one shape per sampler, controls in grey."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from pipeline.report.figure import Mark
from pipeline.report.gud_style import COLOURS, INK, MUTED, text_width

SHAPES = "osD^vPX*"
CONTROL = "#9aa5b1"
LOG_RATIO = 4.0
"""An axis whose values differ by more than this factor is logarithmic."""

_POINT: dict[str, Any] = {"linestyle": "none", "markersize": 6.0}
_CONTROL_SHAPES = "XP*p"
_CONTROL_DASHES = ((0, (5, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


class Styles:
    """Colours and shapes of a set of marks; models share the colour of their baseline where there are too many."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        models = [mark for mark in marks if not mark.is_control]
        series = dict.fromkeys(mark.series for mark in models)
        self._by_family = len(series) > 2 * len(COLOURS)
        groups = list(dict.fromkeys(mark.family for mark in models)) if self._by_family else list(series)
        self._places = {name: i for i, name in enumerate(groups)}
        samplers = dict.fromkeys(mark.sampler for mark in models if mark.sampler)
        self._shapes = {name: SHAPES[i % len(SHAPES)] for i, name in enumerate(samplers)}
        self._controls = [mark for mark in marks if mark.is_control]

    def colour(self, mark: Mark) -> str:
        """Of a mark and its bars."""
        return CONTROL if mark.is_control else COLOURS[self._place(mark) % len(COLOURS)]

    def point(self, mark: Mark) -> dict[str, Any]:
        """How its point is drawn."""
        if mark.is_control:
            shape = _CONTROL_SHAPES[self._controls.index(mark) % len(_CONTROL_SHAPES)]
            return _point(CONTROL, shape, is_open=False)
        return _point(self.colour(mark), self._shapes.get(mark.sampler, "o"), is_open=self._is_open(self._place(mark)))

    def handles(self) -> list[Artist]:
        """Legend: models, then samplers where there are several."""
        entries: list[Artist] = []
        for name, place in self._places.items():
            style = _point(COLOURS[place % len(COLOURS)], "o", is_open=self._is_open(place))
            entries.append(Line2D([], [], label=shortened(name, 44), **style))
        if len(self._shapes) > 1:
            entries += [Line2D([], [], label=s, **_point(MUTED, m, is_open=False)) for s, m in self._shapes.items()]
        return entries

    def control_points(self) -> list[Artist]:
        """Legend of controls that are drawn as points."""
        return [Line2D([], [], label=mark.name, **self.point(mark)) for mark in self._controls]

    def _place(self, mark: Mark) -> int:
        return self._places[mark.family if self._by_family else mark.series]

    def _is_open(self, place: int) -> bool:
        return place // len(COLOURS) % 2 == 1


def _point(colour: str, shape: str, *, is_open: bool) -> dict[str, Any]:
    inside, edge = ("white", colour) if is_open else (colour, "white")
    return {**_POINT, "marker": shape, "color": colour, "markerfacecolor": inside, "markeredgecolor": edge}


def control_line(position: int, label: str) -> dict[str, Any]:
    """How the level of a control row is drawn."""
    dashes = _CONTROL_DASHES[position % len(_CONTROL_DASHES)]
    return {"color": CONTROL, "linewidth": 1.2, "linestyle": dashes, "label": label}


def draw_marks(axes: Axes, marks: Sequence[Mark], styles: Styles, *, with_lines: bool = True) -> None:
    """Points with error bars; samplers of one kind and model are joined by a thin line."""
    if with_lines:
        for key in dict.fromkeys((mark.series, mark.sampler) for mark in marks if not mark.is_control):
            line = sorted((mark for mark in marks if (mark.series, mark.sampler) == key), key=lambda mark: mark.x)
            x, y = [mark.x for mark in line], [mark.y for mark in line]
            axes.plot(x, y, color=styles.colour(line[0]), linewidth=0.9, alpha=0.55, zorder=2)
    for mark in marks:
        colour = styles.colour(mark)
        bars = {"xerr": mark.x_error or None, "yerr": mark.y_error or None}
        style: dict[str, Any] = {"ecolor": colour, "elinewidth": 1.0, "capsize": 2.0, "zorder": 3}
        axes.errorbar(mark.x, mark.y, **bars, **styles.point(mark), **style)


def scaled(axes: Axes, values: Sequence[float], errors: Sequence[float], *, side: str, at_values: bool = False) -> None:
    """Limits and ticks of one axis around values with their bars; logarithmic over a wide positive range.

    Args:
        axes: to be changed.
        values, errors: what is drawn along this axis.
        side: `x` or `y`.
        at_values: ticks stand at the values themselves where they are few.
    """
    axis = axes.xaxis if side == "x" else axes.yaxis
    low = min(value - error for value, error in zip(values, errors, strict=True))
    high = max(value + error for value, error in zip(values, errors, strict=True))
    smallest, largest = min(values), max(values)
    is_log = smallest > 0.0 and largest / smallest > LOG_RATIO
    if is_log:
        low = max(low, smallest / 3.0)  # a bar that reaches below zero ends at the frame
        margin = (high / low) ** 0.06
        limits = low / margin, high * margin
    else:
        span = (high - low) or max(abs(high), 1.0) * 0.2
        limits = low - 0.07 * span, high + 0.07 * span
    (axes.set_xscale if side == "x" else axes.set_yscale)("log" if is_log else "linear")
    (axes.set_xlim if side == "x" else axes.set_ylim)(*limits)
    distinct = sorted(set(values))
    if at_values and len(distinct) <= 9:
        axis.set_major_locator(FixedLocator(_apart(distinct, limits, is_log=is_log)))
        axis.set_minor_locator(NullLocator())
    elif is_log:
        axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def beside(axes: Axes, marks: Sequence[Mark]) -> list[Mark]:
    """Marks of equal x moved beside each other, so that none hides another; limits and scale of x are set before.

    Marks have different names. Those of one x stay in their order, and nearer to it than to any other.
    """
    transform = axes.get_xaxis_transform()
    low, high = (float(transform.transform((limit, 0.0))[0]) for limit in axes.get_xlim())
    at = {x: (float(transform.transform((x, 0.0))[0]) - low) / (high - low) for x in {mark.x for mark in marks}}
    places = sorted(at.values())
    gap = min((b - a for a, b in pairwise(places)), default=0.5)
    moved: dict[str, Mark] = {}
    for x, place in at.items():
        same = [mark for mark in marks if mark.x == x]
        step = min(0.03, 0.6 * gap / len(same))
        for i, mark in enumerate(same):
            pixel = low + (high - low) * (place + (i - (len(same) - 1) / 2) * step)
            moved[mark.name] = replace(mark, x=float(transform.inverted().transform((pixel, 0.0))[0]))
    return [moved[mark.name] for mark in marks]


def _apart(values: Sequence[float], limits: tuple[float, float], *, is_log: bool) -> list[float]:
    """Those of rising values whose labels do not touch."""
    scale = np.log if is_log else np.asarray
    low, high = (float(scale(limit)) for limit in limits)
    chosen: list[float] = []
    for value in values:
        if not chosen or (float(scale(value)) - float(scale(chosen[-1]))) / (high - low) > 0.05:
            chosen.append(value)
    return chosen


def legend_width(handles: Sequence[Artist]) -> float:
    """Room that a legend beside the axes needs, in units of the canvas."""
    return 60 + max((text_width(str(handle.get_label()), 8.5) for handle in handles), default=0.0)


def shortened(text: str, length: int) -> str:
    """A text of at most `length` characters, cut in the middle."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[-(length - 1 - head) :]}"


RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 11.0,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 1.1,
}
"""A ring around a mark that stands out."""
