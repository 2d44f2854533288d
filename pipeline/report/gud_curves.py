"""A metric against softness_a: one curve per basis, prior and training, with error bars (GUD figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.gud_style import (
    COLOURS,
    MARGIN,
    MUTED,
    Array,
    Canvas,
    font_of,
    legend,
    styled,
    text_width,
)

STANDARD_A = 1.0
"""softness_a of standard diffusion; with the standard prior and ordering_r = 0."""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 520, 330, 78, 52
_OTHER_LINES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of the chart; every field `(n,)` by rising softness_a.

    Attributes:
        label: for the legend.
        colour: curves of one colour number share their basis and prior.
        dashes: 0 for the training that most points have (solid), then 1, 2, ...
        softness_a: where it was measured or planned.
        values: the metric; NaN where there is none, which interrupts the line.
        errors: standard errors; NaN where there are none.
        num_seeds: trainings behind a value.
        has_standard: whether softness_a = 1 is standard diffusion (standard prior, ordering_r = 0).
    """

    label: str
    colour: int
    dashes: int
    softness_a: Array
    values: Array
    errors: Array
    num_seeds: NDArray[np.int64]
    has_standard: bool = False

    @property
    def standard(self) -> NDArray[np.bool_]:
        """The points that are standard diffusion, `(n,)`."""
        return np.isclose(self.softness_a, STANDARD_A) & self.has_standard & np.isfinite(self.values)


def softness_chart(curves: Sequence[Curve], *, ylabel: str, title: str, caption: str = "") -> bytes:
    """PNG: the curves, a vertical line at standard diffusion and a black dot where a curve is it.

    Args:
        curves: at least one with a finite value.
        ylabel: the metric with its unit.
        title: headline.
        caption: what the error bars are.
    """
    right = 24 + 46 + max(text_width(label, 8.5) for label in (*(c.label for c in curves), "standard diffusion"))
    width = _LEFT + _WIDTH + right + MARGIN
    canvas = Canvas(width, _HEIGHT + _BOTTOM, title=title, caption=caption)
    axes = canvas.axes(_LEFT, 0, _WIDTH, _HEIGHT)
    axes.axvline(STANDARD_A, color=MUTED, linewidth=1.0, linestyle=(0, (3, 3)), zorder=1)
    handles: list[Line2D] = []
    for curve in curves:
        colour = COLOURS[curve.colour % len(COLOURS)]
        line = "-" if curve.dashes == 0 else _OTHER_LINES[(curve.dashes - 1) % len(_OTHER_LINES)]
        marker = "osD^"[min(curve.dashes, 3)]
        style: dict[str, Any] = {
            "color": colour,
            "linewidth": 1.6,
            "linestyle": line,
            "marker": marker,
            "markersize": 4.5,
        }
        errors = np.where(np.isfinite(curve.errors), curve.errors, 0.0)
        axes.errorbar(curve.softness_a, curve.values, yerr=errors, elinewidth=1.1, capsize=2.5, zorder=3, **style)
        single = curve.num_seeds == 1
        if single.any() and (curve.num_seeds > 1).any():  # other bars than the rest: open marks
            open_marks: dict[str, Any] = {**style, "linestyle": "none", "markerfacecolor": "white", "zorder": 4}
            axes.plot(curve.softness_a[single], curve.values[single], **open_marks)
        handles.append(Line2D([], [], label=curve.label, **style))
    dot: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 8.5,
        "color": "black",
        "markeredgecolor": "white",
    }
    for curve in curves:
        at = curve.standard
        axes.plot(curve.softness_a[at], curve.values[at], zorder=5, **dot)
    if any(curve.standard.any() for curve in curves):
        handles.append(Line2D([], [], label="standard diffusion", **dot))
    low, high = _limits(curves)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.margins(x=0.04)
    axes.annotate(
        "standard",
        (STANDARD_A, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -3),
        textcoords="offset points",
        ha="left",
        va="top",
        color=MUTED,
        fontproperties=font_of(8),
    )
    styled(axes, xlabel="softness_a  (0: no hierarchy, large: autoregressive)", ylabel=ylabel)
    legend(axes, handles, loc="upper left", bbox_to_anchor=(1.03, 1.0), handlelength=3.0)
    return canvas.png()


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Range of the values with their bars, with air above for the mark at the top."""
    ends = [
        curve.values + sign * np.where(np.isfinite(curve.errors), curve.errors, 0.0)
        for curve in curves
        for sign in (-1, 1)
    ]
    finite = np.concatenate(ends)
    finite = finite[np.isfinite(finite)]
    low, high = float(finite.min()), float(finite.max())
    span = (high - low) or max(abs(high), 1.0) * 0.1
    return low - 0.06 * span, high + 0.12 * span
