"""What one network for all schedules costs against networks of their own: paired differences per point."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pipeline.report.gud_style import (
    COLOURS,
    INK,
    MARGIN,
    MUTED,
    Canvas,
    font_of,
    legend,
    quiet_ticks,
    styled,
    text_width,
)

NATS_PER_BIT = log(2.0)
_SLOT, _MIN_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _ABOVE = 64, 250, 270, 78, 70, 70, 22
_MARKERS = "osD^v"


@dataclass(frozen=True)
class Gap:
    """Amortised less own network at one point, bits/dim: positive where amortising costs.

    Attributes:
        task: basis, prior and whatever else both networks are asked to do.
        budget: how much the own network was trained.
        softness_a: of the point. ordering_r: of the point.
        metric: `elbo` or `nll`.
        seed: of both trainings; None for the mean over all of them.
        difference: mean over images, bits/dim.
        se: of a seed: over images; of a mean of two or more: standard deviation of the mean over trainings.
        num_images: behind a difference. num_seeds: behind a mean, 1 otherwise.
    """

    task: str
    budget: str
    softness_a: float
    ordering_r: float
    metric: str
    seed: int | None
    difference: float
    se: float
    num_images: int
    num_seeds: int = 1

    @property
    def place(self) -> tuple[float, float]:
        """softness_a and ordering_r."""
        return self.softness_a, self.ordering_r


_METRICS = {"elbo": "bound on the NLL", "nll": "NLL"}


def gap_chart(gaps: Sequence[Gap], *, title: str, caption: str = "") -> bytes:
    """PNG: a panel per metric, points along x, means with their errors, single trainings as small marks.

    Args:
        gaps: means (seed None), at least one, and single trainings.
        title: headline.
        caption: what the error bars are.
    """
    metrics = [metric for metric in _METRICS if any(gap.metric == metric for gap in gaps)]
    places = sorted({gap.place for gap in gaps})
    tasks, budgets = (list(dict.fromkeys(getattr(gap, name) for gap in gaps)) for name in ("task", "budget"))
    kinds = [(task, budget) for task in tasks for budget in budgets]
    panel = max(_MIN_WIDTH, _SLOT * len(places))
    handles: list[Artist] = [Patch(color=COLOURS[i % len(COLOURS)], label=task) for i, task in enumerate(tasks)]
    for i, budget in enumerate(budgets):
        style: dict[str, Any] = {"linestyle": "none", "marker": _MARKERS[i % len(_MARKERS)], "markersize": 6}
        handles.append(Line2D([], [], color=MUTED, label=budget, **style))
    beside = 50 + max(text_width(str(handle.get_label()), 8.5) for handle in handles)
    width = MARGIN + len(metrics) * (_LEFT + panel + _RIGHT) + beside
    canvas = Canvas(width, _ABOVE + _HEIGHT + _BOTTOM, title=title, caption=caption)
    for position, metric in enumerate(metrics):
        left = MARGIN + position * (_LEFT + panel + _RIGHT) + _LEFT
        canvas.write(left + panel / 2, 8, _METRICS[metric], size=9.5, align="center", bold=True)
        axes = canvas.axes(left, _ABOVE, panel, _HEIGHT)
        shown = [gap for gap in gaps if gap.metric == metric]
        for gap in shown:
            if gap.seed is None or _siblings(gap, shown) > 1:
                colour = COLOURS[tasks.index(gap.task) % len(COLOURS)]
                marker = _MARKERS[budgets.index(gap.budget) % len(_MARKERS)]
                shift = 0.6 * ((kinds.index((gap.task, gap.budget)) + 0.5) / len(kinds) - 0.5)
                _point(axes, gap, places.index(gap.place) + shift, color=colour, marker=marker)
        _frame(axes, places)
    side = canvas.axes(width - beside, _ABOVE, beside, _HEIGHT)
    side.set_axis_off()
    legend(side, handles, loc="upper left", bbox_to_anchor=(0.0, 1.0))
    return canvas.png()


def gap_table(gaps: Sequence[Gap]) -> str:
    """Markdown: one line per point, budget, metric and seed, means last."""
    head = ("metric", "task", "own network", "softness_a", "ordering_r", "seed", "images", "nats/dim", "bits/dim")
    lines = ["Amortised less own network; positive where amortising costs.", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for gap in sorted(gaps, key=lambda g: (g.metric, g.task, g.budget, g.place, g.seed is None, g.seed or 0)):
        seed = f"mean of {gap.num_seeds}" if gap.seed is None else str(gap.seed)
        numbers = [f"{scale * gap.difference:+.4f} ± {scale * gap.se:.4f}" for scale in (NATS_PER_BIT, 1.0)]
        point = [f"{gap.softness_a:g}", f"{gap.ordering_r:g}"]
        cells = [_METRICS[gap.metric], gap.task, gap.budget, *point, seed, str(gap.num_images), *numbers]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _point(axes: Axes, gap: Gap, x: float, **style: Any) -> None:
    y, error = NATS_PER_BIT * gap.difference, NATS_PER_BIT * gap.se
    if gap.seed is None:
        axes.errorbar([x], [y], yerr=[error], markersize=6, elinewidth=1.3, capsize=3, zorder=3, **style)
    else:
        axes.plot([x + 0.07], [y], linestyle="none", markersize=3, alpha=0.55, zorder=2, **style)


def _siblings(gap: Gap, gaps: Sequence[Gap]) -> int:
    """Trainings of the same point, task and budget."""
    same = (other for other in gaps if (other.task, other.budget, other.place) == (gap.task, gap.budget, gap.place))
    return sum(other.seed is not None for other in same)


def _frame(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    axes.axhline(0.0, color=INK, linewidth=1.0, zorder=1)
    axes.set_xlim(-0.6, len(places) - 0.4)
    low, high = axes.get_ylim()
    span = high - low
    axes.set_ylim(low - 0.05 * span, high + 0.05 * span)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xticks(range(len(places)), [f"a = {a:g}\nr = {r:g}" for a, r in places])
    styled(axes, xlabel="softness_a, ordering_r", ylabel="amortised less own network, nats/dim")
    axes.grid(visible=False, axis="x")
    bits = axes.twinx()
    bits.set_ylim(*(limit / NATS_PER_BIT for limit in axes.get_ylim()))
    bits.yaxis.set_major_locator(MaxNLocator(6))
    bits.set_ylabel("bits/dim", color=INK, fontproperties=font_of(9))
    bits.set_frame_on(False)
    quiet_ticks(bits)
