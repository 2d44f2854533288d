"""What the command line prints about a grid."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from pipeline.config import ConfigError, closest
from pipeline.grid.cost import estimate
from pipeline.grid.plan import Plan
from pipeline.grid.run import RunReport
from pipeline.grid.status import grid_documents, lease_name, summary_line, training_reports
from pipeline.grid.tables import grid_table
from pipeline.grid.tasks import STAGES, Task
from pipeline.grid.trials import trial_lines
from pipeline.grid.why import explanation, find_cell
from pipeline.report.formats import csv_text, latex_text, markdown_text, terminal_text
from pipeline.store import Store
from pipeline.tracking import TrackingReport, experiment_link

MAX_CELLS_SHOWN = 40
PRINT_EVERY_S = 10.0


def resolved_yaml(plan: Plan) -> str:
    """The validated tree with all defaults, and the cells that it expands to."""
    tree = plan.grid.model_dump(mode="json")
    tree["cells"] = [{"name": cell.name, **cell.params} for cell in plan.cells]
    for entry, cell in zip(tree["cells"], plan.cells, strict=True):
        if cell.tasks.training is not None:
            entry["training"] = cell.tasks.training.spec.identity()
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def plan_lines(plan: Plan, store: Store | None, *, with_cost: bool = True) -> Iterator[str]:
    """Cells with their state, then what is skipped and merged, then the work that is left."""
    yield f"grid {plan.grid.name}: {len(plan.cells)} rows, {len(plan.trainings)} trainings"
    shown = plan.cells[:MAX_CELLS_SHOWN]
    width = max(len(cell.name) for cell in shown)
    for cell in shown:
        state = "stored" if store is not None and store.find(cell.key) is not None else "to do"
        yield f"  {cell.name:<{width}}  {cell.key.fingerprint[:12]}  {state}"
    if len(plan.cells) > len(shown):
        yield f"  and {len(plan.cells) - len(shown)} more"
    yield from (f"  skipped: {label}: {reason}" for label, reason in plan.skipped)
    yield from (f"  merged: {label}: the same as {name}" for label, name in plan.merged)
    missing = plan.tasks if store is None else plan.missing(store)
    if not missing:
        yield "  nothing to do: every result is in the store"
        return
    yield f"  tasks to run: {_by_stage(Counter(task.stage for task in missing.values()))}"
    if with_cost:
        cost = estimate(plan, missing)
        yield (
            f"  rough cost: {cost.num_trainings} trainings {cost.train_hours:.2f} core hours "
            f"({cost.train_flops:.1e} FLOP), "
            f"{cost.num_images} images {cost.sample_hours:.2f} core hours ({cost.sample_flops:.1e} FLOP); "
            f"one core here: {cost.gflops:.0f} GFLOP/s in a matrix product"
        )


def _by_stage(counts: Counter[str]) -> str:
    return ", ".join(f"{stage} {counts[stage]}" for stage in STAGES if counts[stage])


def report_lines(plan: Plan, store: Store, report: RunReport, tracking: TrackingReport) -> Iterator[str]:
    """The table, what ran, what failed, and where to look."""
    yield terminal_text(grid_table(plan, store), width=terminal_width()).rstrip()
    nothing = "none" if report.failures or report.interrupted else "none: every result was in the store"
    executed = _by_stage(Counter(report.executed)) or nothing
    yield f"stages executed: {executed}"
    yield from (f"failed: {label}: {reason}" for label, reason in report.failures)
    if report.stopped:
        yield f"stopped: {report.stopped}"
    if report.interrupted:
        yield "interrupted: repeat the same command to continue; nothing that was finished is lost"
    yield from tracking_lines(tracking)


def tracking_lines(tracking: TrackingReport) -> Iterator[str]:
    """Link to the page and how to open it, or one warning."""
    if tracking.warning:
        yield f"warning: {tracking.warning}"
    if tracking.link:
        yield f"MLflow: {tracking.link}"
    if tracking.open_with:
        yield f"  (local database; serve it with: {tracking.open_with})"


def terminal_width() -> int:
    """Columns of the terminal; tables need some room even where there is none to ask."""
    return max(shutil.get_terminal_size((160, 24)).columns, 120)


def table_text(plan: Plan, store: Store, form: str, *, each_seed: bool = False) -> str:
    """The result table as `terminal`, `csv`, `markdown` or `latex`: one row per setting, or per setting and seed."""
    writers: dict[str, Callable[..., str]] = {
        "terminal": partial(terminal_text, width=terminal_width()),
        "csv": csv_text,
        "markdown": markdown_text,
        "latex": latex_text,
    }
    return writers[form](grid_table(plan, store, each_seed=each_seed))


def status_lines(plan: Plan, store: Store) -> Iterator[str]:
    """Whether a driver is at work, progress per stage as it last wrote it, unfinished trainings, failures, rows."""
    documents = grid_documents(store, plan.grid.name)
    content = documents.get("status.json")
    driver = store.lease_owner(lease_name(plan.grid.name))
    done = sum(store.find(cell.key) is not None for cell in plan.cells)
    at_work = "no driver is at work" if driver is None else f"driver {driver} is at work"
    yield f"grid {plan.grid.name}: {done} of {len(plan.cells)} rows finished; {at_work}"
    if content is not None:
        snapshot = json.loads(content)
        is_over = driver is None or snapshot.get("driver") != driver  # a driver that starts has written nothing yet
        yield f"{'last' if is_over else 'this'} run {summary_line(snapshot, is_over=is_over)}"
        yield from (f"  failed: {entry['task']}: {entry['reason']}" for entry in snapshot["failures"])
        if not is_over:
            yield from (f"  running: {label}" for label in snapshot["running"])
    yield from trial_lines(store, plan.grid.name, is_over=driver is None)
    trainings = {task.key: task for task in plan.trainings if store.find(task.key) is None}
    for key, entry in training_reports(store, plan.grid.name, trainings).items():
        step, steps, rate = entry.get("step", 0), entry.get("steps", 1), entry.get("images_per_s") or 0.0
        pace = "stopped" if driver is None else f"{rate:,.0f} images/s"
        yield f"  {trainings[key].label}: step {step}/{steps}, {pace}"
    link = experiment_link(documents)
    if link:
        yield f"MLflow: {link}"


def why_lines(plan: Plan, store: Store, name: str) -> Iterator[str]:
    """The chain of one cell.

    Raises:
        ConfigError: no cell, or more than one, has this name.
    """
    cell = find_cell(plan, name)
    if cell is None:
        raise ConfigError(f"cell {name!r}: not one cell of grid {plan.grid.name}{_hint(plan, name)}")
    yield from explanation(plan, cell, store)


def _hint(plan: Plan, name: str) -> str:
    return closest(name, [cell.name for cell in plan.cells])


@dataclass
class ProgressPrinter:
    """Prints a line when the counts change, at most every few seconds."""

    echo: Callable[[str], Any]
    _last: float = field(default=-1e9)
    _counts: Any = None

    def __call__(self, snapshot: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last >= PRINT_EVERY_S:
            self._last = now
            self.echo(summary_line(snapshot))


@dataclass
class StagePrinter:
    """Prints the progress of tasks that run in this process."""

    echo: Callable[[str], Any]
    _last: float = field(default=-1e9)

    def __call__(self, task: Task, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last >= 2.0:
            self._last = now
            self.echo(f"{task.stage}: {task.label}: {done}/{total}")
