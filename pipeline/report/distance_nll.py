"""Quality of the images against quality of the density: distance against likelihood."""

from collections.abc import Sequence

from pipeline.evaluate.metric_names import error_name
from pipeline.report.columns import Row
from pipeline.report.csv_lines import csv_of
from pipeline.report.figure import Figure, distance_metric, error_caption, likelihood_metric, marks
from pipeline.report.gud_style import MARGIN, Canvas, legend, styled
from pipeline.report.marks import Styles, draw_marks, legend_width, scaled

TITLE = "Images against density"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 360, 78, 52


def distance_nll_figure(rows: Sequence[Row], stem: str, primary: str) -> Figure:
    """Distance against negative log-likelihood; rows of one model share the likelihood.

    Args:
        rows: of one data set, each with `name` and `is_control`.
        stem: of the files.
        primary: the metric that sorts the table.
    """
    distance, likelihood = distance_metric(rows, primary), likelihood_metric(rows)
    if distance is None or likelihood is None:
        missing = "a distance" if distance is None else "a likelihood or a bound"
        return Figure(stem, TITLE, left_out=f"no model of this grid has {missing}")
    drawn = marks(rows, likelihood, distance)
    if not any(not mark.is_control for mark in drawn):
        return Figure(stem, TITLE, left_out=f"no model has both {distance} and {likelihood}")
    absent = sum(not row["is_control"] for row in rows) - sum(not mark.is_control for mark in drawn)
    caption = (
        f"{distance} against {likelihood}, both small for good models; samplers of one model lie above each other. "
        f"{error_caption(rows, distance, likelihood)}"
    )
    if absent:
        caption += f" Models without both: {absent}."
    lines = [["row", likelihood, error_name(likelihood), distance, error_name(distance)]]
    for row in rows:
        if likelihood in row["metrics"] and distance in row["metrics"]:
            lines.append([row["name"], *(row["metrics"].get(name) for name in lines[0][1:])])
    styles = Styles(drawn)
    handles = [*styles.handles(), *styles.control_points()]
    title = f"{distance} against {likelihood}"
    canvas = Canvas(_LEFT + _WIDTH + legend_width(handles) + MARGIN, _HEIGHT + _BOTTOM, title=title)
    axes = canvas.axes(_LEFT, 0, _WIDTH, _HEIGHT)
    scaled(axes, [mark.x for mark in drawn], [mark.x_error for mark in drawn], side="x")
    scaled(axes, [mark.y for mark in drawn], [mark.y_error for mark in drawn], side="y")
    draw_marks(axes, drawn, styles, with_lines=False)
    styled(axes, xlabel=f"{likelihood} (bits per dimension)", ylabel=distance)
    legend(axes, handles, loc="upper left", bbox_to_anchor=(1.03, 1.0))
    return Figure(stem, TITLE, caption, png=canvas.png(), csv=csv_of(lines))
