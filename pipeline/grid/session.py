"""One command on one grid: store, plan, lease, tracking and the run itself, in the order that loses nothing."""

import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.baselines import BASELINES
from pipeline.config import ConfigError, closest
from pipeline.grid.environment import cluster_address, prepare_environment
from pipeline.grid.feature_tasks import check_nets
from pipeline.grid.plan import Plan
from pipeline.grid.records import (
    Row,
    finished_rows,
    primary_metric,
    records,
    result_record,
    table_columns,
    train_record,
)
from pipeline.grid.run import Executor, RunReport, run_plan
from pipeline.grid.rungs import session_plan
from pipeline.grid.spec import GridSpec, load_grid
from pipeline.grid.status import driver_name, grid_documents, lease_name
from pipeline.grid.tasks import Task, execute
from pipeline.grid.why import find_cell
from pipeline.store import Key, LeaseHeld, Store, open_store, preflight
from pipeline.tracking import Tracker, TrackingReport, default_uri, sync

log = logging.getLogger(__name__)

LEASE_TTL_S = 15.0
WAIT_FOR_LEASE_S = 1.0
NOTE_ROWS = 10


@dataclass(frozen=True)
class Request:
    """What the user asked for on the command line."""

    grid: str
    store: str = "runs"
    tracking: str | None = None
    overrides: tuple[str, ...] = ()
    data: str | None = None
    address: str | None = None
    max_units: int | None = None
    single_driver: bool = False

    def data_root(self) -> str:
        """Folder of relative data locations: as asked, else PIPELINE_DATA, else the working directory."""
        return self.data or os.environ.get("PIPELINE_DATA") or "."

    def tracking_uri(self) -> str | None:
        """Where results are shown: as asked, else MLFLOW_TRACKING_URI, else a database inside a local store."""
        if self.tracking == "none":
            return None
        return self.tracking or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(self.store)


def planned(request: Request) -> Plan:
    """The plan of a grid file: reads data sets' digests and, for a grid with a section `tune`, what the store has."""
    grid = load_grid(request.grid, request.overrides)
    return session_plan(grid, None if grid.tune is None else readable(request), request.data_root())


def opened(request: Request) -> Store:
    """The store, checked to be usable before any work starts.

    Raises:
        StoreError: it refuses; one sentence with what to do.
    """
    store = open_store(request.store)
    preflight(store, single_driver=request.single_driver)
    return store


def grid_named(store: Store, name: str) -> GridSpec | None:
    """The grid that was last run under this name, or None."""
    content = grid_documents(store, name).get("plan.json")
    return None if content is None else GridSpec.model_validate_json(json.dumps(json.loads(content)["spec"]))


class GridEvents:
    """Passes finished tasks to tracking and progress to the terminal."""

    def __init__(self, plan: Plan, store: Store, tracker: Tracker, show: Callable[[dict[str, Any]], None]) -> None:
        self._plan, self._store, self._tracker, self._show = plan, store, tracker, show
        self._seen: dict[Key, int] = {}

    def done(self, task: Task) -> None:
        artifact = self._store.find(task.key)
        if task.stage == "train" and artifact is not None:
            self._tracker.put(train_record(self._plan, task, artifact))
        if task.stage == "result":
            for row in finished_rows(self._plan, self._store):
                if row.cell.key == task.key:
                    self._tracker.put(result_record(self._plan, row, self._store))

    def training(self, task: Task, report: dict[str, Any]) -> None:
        values = {name: report[name] for name in ("loss", "grad_norm", "lr") if report.get(name) is not None}
        step = int(report.get("step", 0))
        if values and self._seen.get(task.key) != step:
            self._seen[task.key] = step
            self._tracker.progress(task.key.fingerprint, values, step, run_name=task.label)

    def status(self, snapshot: dict[str, Any]) -> None:
        self._show(snapshot)


def tracker_for(plan: Plan, store: Store, uri: str | None) -> Tracker:
    """The tracker of a grid: columns, order and outbox."""
    return Tracker(
        uri,
        plan.grid.name,
        documents=grid_documents(store, plan.grid.name),
        columns=table_columns(plan),
        primary=primary_metric(plan),
    )


def note_rows(plan: Plan, store: Store) -> list[dict[str, object]]:
    """The best rows for the note above the tracking table: models first, control rows after them."""
    primary = primary_metric(plan)

    def rank(row: Row) -> tuple[bool, float]:
        is_control = BASELINES[row.cell.params["baseline"]].control is not None
        return is_control, row.metrics.get(primary, float("inf"))

    rows = sorted(finished_rows(plan, store), key=rank)
    names = [name.removeprefix("metrics.") for name in table_columns(plan) if name.startswith("metrics.")]
    return [
        {"cell": row.cell.name, **{name: row.metrics[name] for name in names if name in row.metrics}}
        for row in rows[:NOTE_ROWS]
    ]


def run_grid(
    request: Request, plan: Plan, store: Store, *, show: Callable[[dict[str, Any]], None]
) -> tuple[RunReport, TrackingReport]:
    """Run what is missing and bring tracking up to date.

    Raises:
        LeaseHeld: another driver works on this grid; says who and since when.
        DataError, ConfigError: a feature net cannot be loaded.
    """

    ends = ExitStack()

    def make_executor() -> Executor:
        prepare_environment(request.address)
        from pipeline.grid.ray import RayExecutor, start_ray  # only here: it takes seconds, and reads the environment

        scratch = ends.enter_context(scratch_folder())
        greet = greeting(request)
        start_ray(request.address, request.max_units)
        greet(store)
        return RayExecutor(store, grid=plan.grid.name, scratch=scratch, max_units=request.max_units)

    with grid_lease(store, plan), ends:
        check_nets(plan.grid.evaluate, lambda: plan.missing(store).values())
        tracker = tracker_for(plan, store, request.tracking_uri())
        shown = False
        try:
            report = run_plan(plan, store, make_executor, events=GridEvents(plan, store, tracker, show))
            for record in records(plan, store):
                tracker.put(record)
            shown = True
            return report, tracker.finish(note_rows(plan, store))
        finally:
            if not shown:
                tracker.finish((), timeout_s=5.0)


def greeting(request: Request) -> Callable[[Store], None]:
    """What to call once Ray is there and before work starts: do the hosts of a cluster and the store fit this driver?

    The tracking server is asked, and this process looked at, right now: joining may move the code that Ray uploaded.

    Raises:
        ConfigError: the tracking server refuses this driver, or this machine cannot hold a Ray of our own; what is
            returned raises it for hosts that do not fit.
    """
    from pipeline.grid.handshake import require_agreement, require_shared_memory, require_tracking
    from pipeline.grid.host_facts import host_facts

    if cluster_address(request.address) is None:
        require_shared_memory()
        return lambda store: None
    require_tracking(request.tracking_uri())
    return partial(require_agreement, host_facts(), single_driver=request.single_driver)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where Ray Train keeps what may be lost: below PIPELINE_SCRATCH, else in the temporary folder; gone at the end.

    Raises:
        ConfigError: PIPELINE_SCRATCH is no folder.
    """
    given = os.environ.get("PIPELINE_SCRATCH")
    if given and not Path(given).is_dir():
        raise ConfigError(f"PIPELINE_SCRATCH: {given} is no folder; make it or unset the variable")
    return tempfile.TemporaryDirectory(prefix="pipeline-train-", dir=given or None, ignore_cleanup_errors=True)


@contextmanager
def grid_lease(store: Store, plan: Plan) -> Iterator[None]:
    """One driver per grid and store. The lease of a driver that died on this machine is waited for, not reported."""
    owner = driver_name()
    deadline = time.monotonic() + 2 * LEASE_TTL_S
    while True:
        try:
            with store.lease(lease_name(plan.grid.name), owner=owner, ttl_s=LEASE_TTL_S):
                yield
            return
        except LeaseHeld as held:
            if not _is_dead_here(held.owner) or time.monotonic() > deadline:
                raise
            log.warning("event=waiting_for_lease owner=%s reason='that driver is gone'", held.owner)
        time.sleep(WAIT_FOR_LEASE_S)


def _is_dead_here(owner: str) -> bool:
    host, _, process = owner.rpartition(":")
    return host == socket.gethostname() and process.isdigit() and not Path(f"/proc/{process}").exists()


def readable(request: Request) -> Store | None:
    """The store if it exists already; planning alone makes none."""
    if "://" not in request.store and not Path(request.store).exists():
        return None
    return opened(request)


def synced(request: Request) -> TrackingReport:
    """Rebuild the tracking page from the store.

    Raises:
        ConfigError: there is nowhere to send to.
    """
    uri = request.tracking_uri()
    if uri is None:
        raise ConfigError("--tracking: name an MLflow server; a remote store has no database of its own")
    plan, store = planned(request), opened(request)
    return sync(
        uri,
        plan.grid.name,
        records=records(plan, store),
        documents=grid_documents(store, plan.grid.name),
        columns=table_columns(plan),
        primary=primary_metric(plan),
        note_rows=note_rows(plan, store),
    )


def run_stage(request: Request, stage: str, cell_name: str | None, show: Callable[[Task, int, int], None]) -> int:
    """Run one stage of one cell (or all), and whatever it needs, in this process; returns how many tasks ran.

    Raises:
        ConfigError: no such cell.
    """
    plan, store = planned(request), opened(request)
    cells = plan.cells
    if cell_name is not None:
        cell = find_cell(plan, cell_name)
        if cell is None:
            raise ConfigError(f"cell {cell_name!r}: not one cell{closest(cell_name, [c.name for c in cells])}")
        cells = (cell,)
    wanted = [task.key for cell in cells for task in cell.tasks.in_order() if task.stage == stage]
    needed: set[Key] = set()
    while wanted:
        key = wanted.pop()
        if key not in needed and store.find(key) is None:
            needed.add(key)
            wanted.extend(plan.tasks[key].inputs.values())
    count = 0
    for key, task in plan.tasks.items():
        if key in needed:
            execute(task, store, partial(show, task))
            count += 1
    return count
