"""Rows at equal cost: the models of every number of network evaluations, best first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluate.metric_names import error_name
from pipeline.report.columns import Row
from pipeline.report.csv_lines import csv_of
from pipeline.report.figure import Figure, error_caption, error_of
from pipeline.report.gud_style import INK, MARGIN, MUTED, REFERENCE, Canvas, quiet_ticks, styled, text_width
from pipeline.report.marks import scaled, shortened
from pipeline.report.table import number

TITLE = "Equal cost"
MAX_ROWS = 12
MAX_SLICES = 8
_PLOT, _LINE, _HEAD, _LABEL = 470, 17, 24, 52
_GREY = "#7b8794"


@dataclass(frozen=True)
class Slice:
    """Models with one number of network evaluations per image, best first, compared among each other."""

    nfe: float
    rows: tuple[Row, ...]


def slices(rows: Sequence[Row], metric: str) -> list[Slice]:
    """Models that have a metric, by their number of evaluations, rising; `comparison` is still that of all rows."""
    models = [row for row in rows if not row["is_control"] and metric in row["metrics"] and "nfe" in row["metrics"]]
    costs = sorted({row["metrics"]["nfe"] for row in models})
    return [Slice(nfe, tuple(_sorted([r for r in models if r["metrics"]["nfe"] == nfe], metric))) for nfe in costs]


def _sorted(rows: Sequence[Row], metric: str) -> list[Row]:
    return sorted(rows, key=lambda row: (row["metrics"][metric], row["name"]))


def slices_figure(found: Sequence[Slice], stem: str, metric: str | None) -> Figure:
    """A line per row and a block per number of evaluations, for those that several rows share.

    Args:
        found: slices whose rows hold the `comparison` with the best of their slice.
        stem: of the files.
        metric: what is compared; None where no model has a distance.
    """
    if metric is None or not found:
        return Figure(stem, TITLE, left_out="no model has both a distance and a number of evaluations")
    numbers = _csv(found, metric)
    best = (("NFE", "best row", metric, "rows", "not told from it"), *(_best(entry, metric) for entry in found))
    shared = [entry for entry in found if len(entry.rows) > 1]
    if not shared:
        left_out = "no two models take the same number of evaluations, so there is nothing to compare at equal cost"
        return Figure(stem, TITLE, csv=numbers, left_out=left_out, highlights=best)
    shown = sorted(sorted(shared, key=lambda entry: -len(entry.rows))[:MAX_SLICES], key=lambda entry: entry.nfe)
    rows = [row for entry in shown for row in entry.rows]
    caption = (
        f"{metric} of the models that take the same number of network evaluations (NFE), best first. Blue: the best of "
        f"its block, filled, and those that cannot be told from it, open (5% level, Holm over the block). "
        f"{error_caption(rows, metric)}"
    )
    if len(shared) > len(shown):
        caption += f" The {len(shown)} blocks with most rows of {len(shared)}; slices.csv has all."
    if any(len(entry.rows) > MAX_ROWS for entry in shown):
        caption += f" The {MAX_ROWS} best rows of a block."
    return Figure(stem, TITLE, caption, png=_chart(shown, metric), csv=numbers, highlights=best)


def _best(entry: Slice, metric: str) -> tuple[str, ...]:
    first = entry.rows[0]
    value = number(first["metrics"][metric], error_of(first, metric) or None)
    compared = [row["comparison"][metric] for row in entry.rows if metric in row["comparison"]]
    tied = sum(not row["best"] and not row["significant"] for row in compared)
    shown = "0" if len(entry.rows) == 1 else str(tied) if compared else "not compared"
    return f"{entry.nfe:g}", str(first["name"]), value, str(len(entry.rows)), shown


def _csv(found: Sequence[Slice], metric: str) -> str:
    errors = [f"{metric}_se", f"{metric}_sd", "seeds"]
    against_best = ["best", "significant", "difference", "difference_se", "p", "p_holm", "p_seeds"]
    lines: list[list[Any]] = [["nfe", "rank", "row", metric, *errors, *against_best]]
    for entry in found:
        for rank, row in enumerate(entry.rows, start=1):
            values, spread = row["metrics"], row.get("spread", {}).get(metric, {})
            compared = row["comparison"].get(metric, {})
            lines.append([entry.nfe, rank, row["name"], values[metric], values.get(error_name(metric))])
            lines[-1] += [spread.get("sd"), spread.get("n"), compared.get("best"), compared.get("significant")]
            lines[-1] += [compared.get(name) for name in ("difference", "se", "p", "p_holm", "p_seeds")]
    return csv_of(lines)


def _chart(found: Sequence[Slice], metric: str) -> bytes:
    blocks = [(entry.nfe, entry.rows[:MAX_ROWS]) for entry in found]
    names = [shortened(str(row["name"]), _LABEL) for _, rows in blocks for row in rows]
    left = MARGIN + max(text_width(name, 8) for name in names) + 10
    height = sum(_HEAD + _LINE * len(rows) for _, rows in blocks)
    canvas = Canvas(left + _PLOT + 130, height + 48, title=f"{metric} at equal NFE")
    axes = canvas.axes(left, 0, _PLOT, height)
    values = [row["metrics"][metric] for _, rows in blocks for row in rows]
    errors = [error_of(row, metric) for _, rows in blocks for row in rows]
    scaled(axes, values, errors, side="x")
    axes.set_ylim(height, 0)
    styled(axes, xlabel=metric)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x", color="#e4e7eb", linewidth=0.8)
    top = 0.0
    for nfe, rows in blocks:
        canvas.write(MARGIN, top + _HEAD / 2 + 2, f"NFE {nfe:g}", size=9, bold=True)
        if top:
            axes.axhline(top, color="#cbd2d9", linewidth=0.8)
        for i, row in enumerate(rows):
            y = top + _HEAD + _LINE * (i + 0.5)
            entry = row["comparison"].get(metric, {})
            is_best = entry.get("best", i == 0)
            colour = REFERENCE if is_best or (entry and not entry["significant"]) else _GREY
            error = error_of(row, metric)
            style: dict[str, Any] = {"markerfacecolor": colour if is_best or colour == _GREY else "white"}
            axes.errorbar(
                row["metrics"][metric], y, xerr=error or None, color=colour, marker="o", markersize=5, capsize=2,
                elinewidth=1.1, linestyle="none", zorder=3, **style,
            )  # fmt: skip
            ink = INK if colour != _GREY else MUTED
            canvas.write(
                left - 8, y, shortened(str(row["name"]), _LABEL), size=8, color=ink, align="right", bold=is_best
            )
            text = number(row["metrics"][metric], error or None)
            canvas.write(left + _PLOT + 10, y, text, size=8, color=ink, bold=is_best)
        top += _HEAD + _LINE * len(rows)
    quiet_ticks(axes)
    return canvas.png()
