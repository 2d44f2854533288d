"""The driver: admits stages by a budget, hands results to tracking, and survives by being repeated."""

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.grid.inputs import unreadable
from pipeline.grid.plan import Plan
from pipeline.grid.schedule import DAMAGED, Outcome, Schedule, State, balanced, signature
from pipeline.grid.status import StatusWriter, Timings, grid_documents, training_reports
from pipeline.grid.tasks import Task
from pipeline.store import Key, Store
from pipeline.train.spec import TrainTask

log = logging.getLogger(__name__)

POLL_S = 0.5
HEALING_ROUNDS = 3
"""How often the missing tasks are planned anew when stored artifacts turn out to be damaged."""
REQUEST = frozenset({"ConfigError", "DataError", "StoreError"})
"""Failures that a person has to cure: the grid, its data, or permissions."""


class Executor(Protocol):
    """Where tasks run."""

    total_units: int

    @property
    def free_units(self) -> int: ...
    def submit(self, task: Task) -> None: ...
    def submit_group(self, tasks: list[Task], *, workers: int) -> None: ...
    def poll(self, timeout_s: float) -> list[Outcome]: ...
    def close(self) -> None: ...


class Events(Protocol):
    """Who wants to know what happens."""

    def done(self, task: Task) -> None: ...
    def training(self, task: Task, report: dict[str, Any]) -> None: ...
    def status(self, snapshot: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        executed: number of tasks that ran to their end, by stage.
        failures: label and reason of every failed task.
        stopped: why the grid was stopped early, if it was.
        interrupted: whether a signal ended the run.
        kinds: exception classes of the failures.
        num_rows: finished rows of the grid, also those of earlier runs; counted when something failed.
    """

    executed: dict[str, int] = field(default_factory=dict[str, int])
    failures: tuple[tuple[str, str], ...] = ()
    stopped: str | None = None
    interrupted: bool = False
    kinds: frozenset[str] = frozenset()
    num_rows: int = 0

    @property
    def refusal(self) -> str | None:
        """One sentence if the request itself is at fault: no row could be finished, and trying again is no cure."""
        if self.interrupted or self.num_rows or not self.failures or not self.kinds <= REQUEST:
            return None
        label, reason = self.failures[0]
        more = f" (and {len(self.failures) - 1} more failures)" if len(self.failures) > 1 else ""
        return f"{label}: {reason.partition(': ')[2]}{more}"

    def after(self, earlier: "RunReport") -> "RunReport":
        """This report with the tasks that an earlier round had finished."""
        stages = {*earlier.executed, *self.executed}
        executed = {stage: earlier.executed.get(stage, 0) + self.executed.get(stage, 0) for stage in stages}
        return replace(self, executed=executed)


def run_plan(
    plan: Plan,
    store: Store,
    make_executor: Callable[[], Executor],
    *,
    events: Events,
    poll_s: float = POLL_S,
) -> RunReport:
    """Write down what the grid asks for and run what is missing; nothing is started when nothing is.

    Args:
        plan: the grid's tasks.
        store: where artifacts are committed.
        make_executor: called only if there is work that can be done.
        events: told about finished tasks and progress.
        poll_s: longest wait between two looks at the running tasks.
    """
    documents = grid_documents(store, plan.grid.name)
    documents.put("plan.json", json.dumps(plan_document(plan), indent=1).encode())  # first: it protects what is reused
    return run_missing(plan, store, make_executor, events=events, poll_s=poll_s)


def run_missing(
    plan: Plan,
    store: Store,
    make_executor: Callable[[], Executor],
    *,
    events: Events,
    poll_s: float = POLL_S,
    wanted: Callable[[Task], bool] = lambda task: True,
) -> RunReport:
    """Run the missing tasks that are wanted; the inputs of a wanted task are wanted too.

    Args:
        plan, store, make_executor, events, poll_s: see `run_plan`.
        wanted: which of the missing tasks.
    """
    report = RunReport()
    for _ in range(HEALING_ROUNDS):
        missing = {key: task for key, task in plan.missing(store).items() if wanted(task)}
        if not missing:
            return report
        report = _run_missing(plan, missing, store, make_executor, events=events, poll_s=poll_s).after(report)
        if DAMAGED not in report.kinds or report.interrupted:
            break
        log.warning("event=healing reason='damaged artifacts were put aside and are made again'")
    return report


def _run_missing(
    plan: Plan,
    missing: dict[Key, Task],
    store: Store,
    make_executor: Callable[[], Executor],
    *,
    events: Events,
    poll_s: float,
) -> RunReport:
    schedule = Schedule(missing)
    for outcome in unreadable(missing.values()):
        schedule.settle(outcome)
    status = StatusWriter(store, plan.grid.name)
    timings = Timings(store, plan.grid.name)
    executed: dict[str, int] = {}
    with ExitStack() as stack:
        executor = None if schedule.is_finished else stack.enter_context(closing(make_executor()))
        stop = stack.enter_context(stop_signal())  # last: starting Ray sets signal handlers of its own
        while executor is not None and not schedule.is_finished and not stop.is_set():
            _admit(schedule, executor)
            outcomes = executor.poll(poll_s) + _committed_early(schedule, store)
            for outcome in outcomes:
                if schedule.states[outcome.key] is State.DONE:
                    continue
                if schedule.settle(outcome) is State.DONE:
                    task = schedule.tasks[outcome.key]
                    executed[task.stage] = executed.get(task.stage, 0) + 1
                    timings.add(outcome)
                    events.done(task)
            _report(schedule, status, store, plan, events)
        _report(schedule, status, store, plan, events, force=True)  # not after an error: the store may be away
        timings.save()
    failed = {key: failure for key, failure in schedule.failures.items() if schedule.states[key] is State.FAILED}
    return RunReport(
        executed,
        tuple((schedule.tasks[key].label, signature(failure)) for key, failure in failed.items()),
        schedule.stopped,
        stop.is_set(),
        frozenset(failure.kind for failure in failed.values()),
        sum(store.find(cell.key) is not None for cell in plan.cells) if failed else 0,
    )


def _admit(schedule: Schedule, executor: Executor) -> None:
    ready = schedule.ready()
    trainings = [task for task in ready if task.stage == "train"]
    if trainings and not any(task.stage in ("ingest", "statistics") for task in ready):
        by_workers: dict[int, list[Task]] = {}
        for task in trainings:
            workers = min(_workers(task), executor.total_units)
            by_workers.setdefault(workers, []).append(task)
        for workers, tasks in sorted(by_workers.items(), reverse=True):
            num_groups = executor.free_units // workers
            for group in balanced(tasks, num_groups) if num_groups else []:
                schedule.start(group)
                executor.submit_group(group, workers=workers)
    for task in ready:
        if task.stage != "train" and executor.free_units > 0:
            schedule.start([task])
            executor.submit(task)


def _workers(task: Task) -> int:
    assert isinstance(task.spec, TrainTask)
    return task.spec.train.workers


def _committed_early(schedule: Schedule, store: Store) -> list[Outcome]:
    """Cells of a running group that are in the store already: their images can be drawn while the group goes on."""
    running = [key for key, task in schedule.tasks.items() if task.stage == "train"]
    running = [key for key in running if schedule.states[key] is State.RUNNING]
    return [Outcome(key) for key in running if store.find(key) is not None]


def _report(
    schedule: Schedule, status: StatusWriter, store: Store, plan: Plan, events: Events, *, force: bool = False
) -> None:
    running = [
        key for key, task in schedule.tasks.items() if task.stage == "train" and schedule.states[key] is State.RUNNING
    ]
    reports = training_reports(store, plan.grid.name, running)
    for key, report in reports.items():
        events.training(schedule.tasks[key], report)
    snapshot = status.snapshot(schedule, reports)
    status.write(snapshot, force=force)
    events.status(snapshot)


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM; a second signal ends the process at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def plan_document(plan: Plan, rungs: Iterable[Plan] = ()) -> dict[str, Any]:
    """The plan as the store keeps it: roots for collection, and the rows with their parameters.

    Args:
        plan: what is shown.
        rungs: plans whose artifacts are kept as well.
    """
    return {
        "grid": plan.grid.name,
        "fingerprint": plan.fingerprint,
        "spec": plan.grid.model_dump(mode="json"),
        "roots": sorted({_text(key) for part in (plan, *rungs) for key in part.tasks}),
        "cells": [{"name": cell.name, "params": dict(cell.params), "result": _text(cell.key)} for cell in plan.cells],
        "skipped": [list(item) for item in plan.skipped],
        "merged": [list(item) for item in plan.merged],
    }


def _text(key: Key) -> str:
    return f"{key.stage}/{key.fingerprint}"
