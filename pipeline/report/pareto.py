"""Quality against cost: which rows no other row beats at both (the Pareto front)."""

from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from pipeline.evaluate.metric_names import error_name
from pipeline.report.columns import Row
from pipeline.report.csv_lines import csv_of
from pipeline.report.figure import Figure, Mark, distance_metric, error_caption, marks
from pipeline.report.gud_style import INK, MARGIN, Canvas, legend, styled
from pipeline.report.marks import RING, Styles, beside, control_line, draw_marks, legend_width, scaled
from pipeline.report.table import number

TITLE = "Quality against cost"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 360, 78, 52


def undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is at most as large in both coordinates and smaller in one; equal points stand together.

    Args:
        points: (cost, badness) of each row, both small where they are good.
    """
    return [not any(x <= p[0] and y <= p[1] and (x, y) != p for x, y in points) for p in points]


def pareto_figure(rows: Sequence[Row], stem: str, primary: str) -> Figure:
    """Distance against network evaluations per image, with the undominated front; controls are lines.

    Args:
        rows: of one data set, each with `name` and `is_control`.
        stem: of the files.
        primary: the metric that sorts the table.
    """
    metric = distance_metric(rows, primary)
    if metric is None:
        return Figure(
            stem, TITLE, left_out="no model of this grid has a distance, so there is nothing to set against NFE"
        )
    drawn = marks(rows, "nfe", metric)
    models = [mark for mark in drawn if not mark.is_control]
    if not models:
        return Figure(stem, TITLE, left_out=f"no model has both {metric} and nfe, so there is no front")
    is_front = undominated([(mark.x, mark.y) for mark in models])
    front = sorted((mark for mark, chosen in zip(models, is_front, strict=True) if chosen), key=lambda mark: mark.x)
    costs = sorted({mark.x for mark in models})
    caption = (
        f"{metric} against network evaluations per image (NFE); rows of equal NFE stand beside each other. Ringed rows "
        "are undominated: no other model needs at most as many evaluations and lies at most as far from the data. "
        f"{error_caption(rows, metric)} Rows on and off the front may lie within their errors."
    )
    if len(costs) == 1:
        caption += f" All models take {costs[0]:g} evaluations, so the front is the best row."
    table = [(mark.name, f"{mark.x:g}", number(mark.y, mark.y_error or None)) for mark in front]
    return Figure(
        stem,
        TITLE,
        caption,
        png=_chart(drawn, front, metric),
        csv=_csv(rows, metric, {mark.name for mark in front}),
        highlights=(("undominated row", "NFE", metric), *table),
    )


def _csv(rows: Sequence[Row], metric: str, front: set[str]) -> str:
    lines: list[list[Any]] = [["row", "nfe", metric, f"{metric}_se", f"{metric}_sd", "seeds", "undominated"]]
    for row in rows:
        values, spread = row["metrics"], row.get("spread", {}).get(metric, {})
        if metric in values and "nfe" in values:
            error = values.get(error_name(metric))
            chosen = "control" if row["is_control"] else "yes" if row["name"] in front else "no"
            lines.append([row["name"], values["nfe"], values[metric], error, spread.get("sd"), spread.get("n"), chosen])
    lines[1:] = sorted(lines[1:], key=lambda line: (line[1], line[2], line[0]))
    return csv_of(lines)


def _chart(drawn: Sequence[Mark], front: Sequence[Mark], metric: str) -> bytes:
    models = [mark for mark in drawn if not mark.is_control]
    controls = [mark for mark in drawn if mark.is_control]
    styles = Styles(models)
    shown = _near(controls, models)
    lines = [control_line(i, f"{mark.name} ({number(mark.y, mark.y_error or None)})") for i, mark in enumerate(shown)]
    handles = [*styles.handles(), Line2D([], [], label="undominated", **RING), *(Line2D([], [], **o) for o in lines)]
    canvas = Canvas(_LEFT + _WIDTH + legend_width(handles) + MARGIN, _HEIGHT + _BOTTOM, title=f"{metric} against NFE")
    axes = canvas.axes(_LEFT, 0, _WIDTH, _HEIGHT)
    y = [mark.y for mark in (*models, *shown)]
    scaled(axes, [mark.x for mark in models], [0.0] * len(models), side="x", at_values=True)
    scaled(axes, y, [mark.y_error for mark in models] + [0.0] * len(shown), side="y")
    placed = beside(axes, models)
    draw_marks(axes, placed, styles)
    names = [mark.name for mark in front]
    front = [mark for mark in placed if mark.name in names]
    front.sort(key=lambda mark: mark.x)
    steps_x = [mark.x for mark in front] + [axes.get_xlim()[1]]
    steps_y = [mark.y for mark in front] + [front[-1].y]
    axes.step(steps_x, steps_y, where="post", color=INK, linewidth=1.1, zorder=2.5)
    axes.plot([mark.x for mark in front], [mark.y for mark in front], zorder=4, **RING)
    for mark, line in zip(shown, lines, strict=True):
        axes.axhline(mark.y, **line, zorder=1)
    styled(axes, xlabel="network evaluations per image (NFE)", ylabel=metric)
    legend(axes, handles, loc="upper left", bbox_to_anchor=(1.03, 1.0))
    return canvas.png()


def _near(controls: Sequence[Mark], models: Sequence[Mark]) -> list[Mark]:
    """Controls that a chart of the models can show without becoming another chart."""
    low, high = min(mark.y for mark in models), max(mark.y for mark in models)
    return [mark for mark in controls if low / 6.0 <= mark.y <= 3.0 * high]
