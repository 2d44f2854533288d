"""The result table of a grid, built from the store."""

from dataclasses import replace
from typing import Any

from pipeline.evaluate.comparison import with_comparison
from pipeline.grid.plan import Plan
from pipeline.grid.records import DERIVED, finished_rows, primary_metric
from pipeline.report.table import Table, result_table
from pipeline.store import Store

HIDDEN = ("degradation", "centre", "loss", "weighting", "clip", "log_snr_data", "log_snr_prior", "ordering_r")
"""Parameters that a table shows only when the grid varies them within a baseline."""


LENGTHS = ("steps", "log_snr_step")
"""Parameters of which every sampler has one; the other one is missing then."""


def compared_rows(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Finished rows, each with its axes and how it differs from the best row."""
    rows = finished_rows(plan, store)
    varying = _varying(plan)
    results = [
        replace(row.result, row={**row.result.row, "axes": {k: v for k, v in row.cell.params.items() if k in varying}})
        for row in rows
    ]
    compared = with_comparison(results, primary_metric(plan))
    return [{**row, "name": finished.cell.name} for row, finished in zip(compared, rows, strict=True)]


def _varying(plan: Plan) -> set[str]:
    """Parameters by which rows are told apart: those that differ among the cells of one baseline."""
    chosen = {"baseline"}
    for name in {name for cell in plan.cells for name in cell.params}:
        by_baseline: dict[Any, set[str]] = {}
        for cell in plan.cells:
            if name in cell.params or (name in LENGTHS and "sampler" in cell.params):
                by_baseline.setdefault(cell.params["baseline"], set()).add(str(cell.params.get(name, "")))
        differs_within = any(len(values) > 1 for values in by_baseline.values())
        differs_between = len(set().union(*by_baseline.values())) > 1 and name not in HIDDEN
        if (differs_within or differs_between) and name not in DERIVED:
            chosen.add(name)
    return chosen


def grid_table(plan: Plan, store: Store) -> Table:
    """The sorted table with errors, marks and reasons."""
    unfinished = len(plan.cells) - len(rows := compared_rows(plan, store))
    table = result_table(rows, primary_metric(plan), skipped=plan.skipped)
    if unfinished:
        return replace(table, notes=(*table.notes, f"{unfinished} of {len(plan.cells)} rows are not finished"))
    return table
