"""The result table of a grid, built from the store."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.evaluate.comparison import Result, with_comparison
from pipeline.evaluate.seeds import Setting, aggregated_rows
from pipeline.grid.plan import Cell, Plan
from pipeline.grid.records import DERIVED, Row, finished_rows, primary_metric
from pipeline.report.table import Table, result_table
from pipeline.store import Store

HIDDEN = ("degradation", "centre", "loss", "weighting", "clip", "log_snr_data", "log_snr_prior", "ordering_r")
"""Parameters that a table shows only when the grid varies them within a baseline."""


LENGTHS = ("steps", "log_snr_step")
"""Parameters of which every sampler has one; the other one is missing then."""


@dataclass(frozen=True, eq=False)
class Group:
    """What one row of a table stands for.

    Attributes:
        name: of the cell; without the seed where there are several.
        rows: finished rows that differ in their seed alone, by rising seed.
        axes: parameters that tell the groups apart.
        num_planned: cells that the grid has of this kind, finished or not.
    """

    name: str
    rows: tuple[Row, ...]
    axes: Mapping[str, Any]
    num_planned: int

    @property
    def cell(self) -> Cell:
        """The cell of the smallest seed."""
        return self.rows[0].cell

    @property
    def is_trained(self) -> bool:
        """Whether a seed is a training of its own."""
        return self.cell.tasks.training is not None

    @property
    def setting(self) -> Setting:
        """The results by seed, with their axes."""
        results = {row.cell.params["seed"]: _with_axes(row.result, self.axes) for row in self.rows}
        return Setting(results, self.is_trained)


def grouped_rows(plan: Plan, store: Store, *, each_seed: bool = False) -> list[Group]:
    """Finished rows, those that differ in their seed alone together; with `each_seed` every row by itself."""
    varying = varying_params(plan)
    planned: dict[str, int] = {}
    for cell in plan.cells:
        setting = _setting_of(cell)
        planned[setting] = planned.get(setting, 0) + 1
    together: dict[str, list[Row]] = {}
    for position, row in enumerate(finished_rows(plan, store)):
        together.setdefault(str(position) if each_seed else _setting_of(row.cell), []).append(row)
    groups: list[Group] = []
    for setting, rows in together.items():
        params = rows[0].cell.params
        hidden = set() if each_seed else {"seed"}
        axes = {name: value for name, value in params.items() if name in varying - hidden}
        name = rows[0].cell.name if each_seed else _without_seed(rows[0].cell)
        ordered = tuple(sorted(rows, key=lambda row: row.cell.params["seed"]))
        groups.append(Group(name, ordered, axes, 1 if each_seed else planned[setting]))
    return groups


def compared_rows(groups: Sequence[Group], primary: str) -> list[dict[str, Any]]:
    """Rows of a table: each with its name, its axes and how it differs from the best one."""
    if all(len(group.rows) == 1 for group in groups):
        rows = with_comparison([group.setting.first for group in groups], primary)
    else:
        rows = aggregated_rows([group.setting for group in groups], primary)
    return [{**row, "name": group.name} for row, group in zip(rows, groups, strict=True)]


def grid_table(plan: Plan, store: Store, *, each_seed: bool = False) -> Table:
    """The sorted table with errors, marks and reasons; one row per setting, or per setting and seed."""
    primary = primary_metric(plan)
    groups = grouped_rows(plan, store, each_seed=each_seed)
    table = result_table(compared_rows(groups, primary), primary, skipped=plan.skipped)
    unfinished = len(plan.cells) - sum(len(group.rows) for group in groups)
    if unfinished:
        what = "rows" if each_seed or len(plan.grid.seeds) == 1 else "rows of single seeds"
        return replace(table, notes=(*table.notes, f"{unfinished} of {len(plan.cells)} {what} are not finished"))
    return table


def varying_params(plan: Plan) -> set[str]:
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


def _setting_of(cell: Cell) -> str:
    """Identity of a cell without its seed: what is trained, sampled and scored, and on which data."""
    tasks = cell.tasks
    alike = [task for task in (tasks.training, *tasks.samples, *tasks.likelihoods, tasks.result) if task is not None]
    specs = [{"stage": task.stage, **task.spec.identity(), "seed": None} for task in alike]
    return json.dumps([tasks.dataset.key.fingerprint, specs], sort_keys=True)


def _without_seed(cell: Cell) -> str:
    return re.sub(rf"/seed{cell.params['seed']}(?=[/#]|$)", "", cell.name)


def _with_axes(result: Result, axes: Mapping[str, Any]) -> Result:
    return replace(result, row={**result.row, "axes": dict(axes)})
