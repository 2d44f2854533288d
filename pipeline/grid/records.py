"""What tracking and tables show of a cell: read from the store, so that either can be rebuilt at any time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.comparison import Result
from pipeline.evaluate.metric_names import feature_metric
from pipeline.grid.plan import Cell, Plan
from pipeline.grid.spec import INCEPTIONS, SORTABLE
from pipeline.grid.status import grid_documents, task_seconds
from pipeline.grid.tasks import Task
from pipeline.sample.blocks import SampleBlock
from pipeline.store import Artifact, Store
from pipeline.tracking import ResultRecord, TrainRecord
from pipeline.train.status import read_status

CURVE_POINTS = 500
BY_DEFAULT = (*INCEPTIONS, "fd_clf", "nll", "elbo", "vlb", "moments")
"""What sorts a table that names no primary metric, the first of these that is measured."""
COLUMNS = {
    "elbo": ("elbo_bpd", "elbo_se"),
    "nll": ("nll_bpd", "nll_se"),
    "vlb": ("vlb_bpd", "vlb_se"),
    "diversity": ("pairwise_ratio",),
    "memorisation": ("memorisation_ratio",),
}
"""Columns that a metric adds to the shared table beside the primary one."""
DERIVED = ("softness",)
"""Parameters that repeat another one in other units: tracked, but no column of the table."""


@dataclass(frozen=True)
class Row:
    """One finished cell: its parameters and what was measured."""

    cell: Cell
    result: Result

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.result.row["metrics"])


def finished_rows(plan: Plan, store: Store) -> list[Row]:
    """Rows of all cells whose result is in the store, in plan order."""
    rows: list[Row] = []
    for cell in plan.cells:
        artifact = store.find(cell.key)
        if artifact is not None:
            rows.append(Row(cell, Result.read(artifact)))
    return rows


def primary_metric(plan: Plan) -> str:
    """The metric that sorts the table: as the grid says, else the first of `BY_DEFAULT` that is measured."""
    evaluate = plan.grid.evaluate
    if evaluate.primary is not None:
        return evaluate.primary
    if not set(BY_DEFAULT) & set(evaluate.metrics) and evaluate.feature_nets:
        return evaluate.feature_nets[0].name
    metric = next((metric for metric in BY_DEFAULT if metric in evaluate.metrics), "nll")
    if metric == "fd_clf":
        return f"{SORTABLE[metric]}{plan.grid.experiment.dataset.name}"
    if metric in INCEPTIONS:
        return feature_metric("fd", metric, num_images=evaluate.num_images)
    return SORTABLE[metric]


def table_columns(plan: Plan, *, limit: int = 8) -> list[str]:
    """Columns of the shared table: the metrics of the primary family, then the parameters that differ between cells."""
    primary = primary_metric(plan)
    measured = plan.grid.evaluate.metrics
    names = [primary, *([] if primary == "w2" else [f"{primary.removesuffix('_bpd')}_se"])]
    names += [name for metric in measured for name in COLUMNS.get(metric, ())]
    metrics = [f"metrics.{name}" for name in dict.fromkeys([*names, "nfe"])]
    varying = [
        name
        for name in dict.fromkeys(name for cell in plan.cells for name in cell.params)
        if name not in DERIVED
        and (len({str(cell.params.get(name)) for cell in plan.cells if name in cell.params}) > 1 or name == "baseline")
    ]
    return [*metrics, *(f"params.{name}" for name in varying[:limit])]


def result_record(plan: Plan, row: Row, store: Store) -> ResultRecord:
    """The tracking record of a finished cell, with its preview sheet."""
    artifacts: dict[str, Any] = {}
    if row.cell.tasks.samples:
        block = store.find(row.cell.tasks.samples[0].key)
        if block is not None and "preview.png" in block.files:
            artifacts["samples.png"] = block.path("preview.png")
    for task in row.cell.tasks.studies:
        study = store.find(task.key)
        if study is not None:
            kind = study.meta["kind"]
            artifacts |= {f"{kind}-{name}": study.path(name) for name in (*study.meta["figures"], "study.json")}
    grid = plan.grid
    protocol = row.result.row["protocol"]
    params = {**row.cell.params, "num_images": protocol.get("num_images", grid.evaluate.num_images)}
    tags = {"grid": grid.name, "cell": row.cell.name, "plan": plan.fingerprint[:12]}
    if row.cell.tasks.training is not None:
        tags["training"] = row.cell.tasks.training.key.fingerprint[:12]
    return ResultRecord(
        fingerprint=row.cell.key.fingerprint,
        run_name=row.cell.name,
        params=params,
        metrics={**row.metrics, **_cost(plan, row.cell, store)},
        tags=tags,
        artifacts=artifacts,
        reasons=row.result.row["reasons"],
    )


def _cost(plan: Plan, cell: Cell, store: Store) -> dict[str, float]:
    """What the row took: `train_h` hours of all training workers together, `img_per_s` of one sampling worker.

    A training that was continued knows its last sitting only; its steps before that are counted at the same rate.
    """
    cost: dict[str, float] = {}
    if cell.tasks.training is not None:
        report = read_status(grid_documents(store, plan.grid.name), cell.tasks.training.key) or {}
        steps = int(report.get("steps", 0))
        in_sitting = steps - int(report.get("start_step", 0))
        if report.get("seconds") and in_sitting > 0:
            hours = float(report["seconds"]) * int(report.get("workers", 1)) / 3600
            cost["train_h"] = round(hours * steps / in_sitting, 5)
    seconds = task_seconds(store, plan.grid.name)
    blocks = [task for task in cell.tasks.samples if str(task.key) in seconds]
    images = sum(task.spec.count for task in blocks if isinstance(task.spec, SampleBlock))
    if images:
        cost["img_per_s"] = round(images / sum(seconds[str(task.key)] for task in blocks), 2)
    return cost


def train_record(plan: Plan, task: Task, artifact: Artifact) -> TrainRecord:
    """The tracking record of a training: its curves, thinned to what a chart can show."""
    curve: dict[str, list[tuple[int, float]]] = {}
    with np.load(artifact.path("curve.npz"), allow_pickle=False) as arrays:
        steps = arrays["step"]
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), CURVE_POINTS)).astype(int))
        for name in arrays.files:
            if name != "step" and arrays[name].shape == steps.shape:
                curve[name] = [(int(steps[i]), float(arrays[name][i])) for i in chosen]
    meta = artifact.meta
    metrics = {name: float(value) for name, value in meta.items() if isinstance(value, int | float)}
    spec: Mapping[str, Any] = task.spec.identity()
    params = {"seed": spec["seed"], **{name: value for name, value in spec["train"].items() if _is_scalar(value)}}
    return TrainRecord(
        fingerprint=task.key.fingerprint,
        run_name=task.label,
        params=params,
        curve=curve,
        metrics=metrics,
        tags={"grid": plan.grid.name},
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def records(plan: Plan, store: Store) -> Iterator[ResultRecord | TrainRecord]:
    """Everything that tracking shows of a grid, from the store."""
    seen: set[str] = set()
    for task in plan.tasks.values():
        if task.stage == "train" and task.key.fingerprint not in seen:
            seen.add(task.key.fingerprint)
            artifact = store.find(task.key)
            if artifact is not None:
                yield train_record(plan, task, artifact)
    for row in finished_rows(plan, store):
        yield result_record(plan, row, store)
