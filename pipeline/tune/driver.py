"""`tune` on one grid: what points share is made as `run` makes it, then Ray Tune evaluates the points, rung by rung."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.grid.environment import prepare_environment
from pipeline.grid.feature_tasks import check_nets
from pipeline.grid.plan import Plan
from pipeline.grid.points import Point, of_points
from pipeline.grid.proposals import search_of
from pipeline.grid.records import finished_rows, records, result_record
from pipeline.grid.run import HEALING_ROUNDS, Executor, RunReport, plan_document, run_missing, stop_signal
from pipeline.grid.rungs import entrants, promoted, rung_plans, settled
from pipeline.grid.schedule import DAMAGED, Outcome
from pipeline.grid.session import (
    GridEvents,
    Request,
    greeting,
    grid_lease,
    note_rows,
    scratch_folder,
    tracker_for,
)
from pipeline.grid.spec import GridSpec, TuneSpec
from pipeline.grid.status import StatusWriter, Timings, grid_documents
from pipeline.grid.tasks import SHARDED, Task
from pipeline.grid.trials import TrialLog
from pipeline.store import Key, Store
from pipeline.tracking import Tracker, TrackingReport
from pipeline.tune.report import RungCount, TuneReport, evaluations_of
from pipeline.tune.search import corner_plans, search_points
from pipeline.tune.watch import Watch
from pipeline.tune.work import ListedWork, Work, settle_record

if TYPE_CHECKING:
    from pipeline.tune.cluster import KeptExecutor

Show = Callable[[dict[str, Any]], None]


def tune_grid(request: Request, grid: GridSpec, store: Store, *, show: Show) -> tuple[TuneReport, TrackingReport]:
    """Evaluate every point of a grid that the store lacks, and bring tracking up to date.

    Args:
        request: what the user asked for.
        grid: its grid; without a section `tune` all points are evaluated on one rung.
        store: where everything is.
        show: given progress snapshots.

    Raises:
        ConfigError: the section `tune` cannot work, or a cluster cannot be joined.
        LeaseHeld: another driver works on this grid.
        DataError: a feature net cannot be loaded.
    """
    started = time.monotonic()
    grid = grid if grid.tune is not None else grid.model_copy(update={"tune": TuneSpec()})
    root = str(Path(request.data_root()).absolute()) if "://" not in request.data_root() else request.data_root()
    pinned: dict[str, Any] = {}
    plans = rung_plans(grid, store, root, pinned)
    if search_of(grid) is not None:
        corner_plans(grid, root, pinned)
    shown = settled(plans, store)
    with grid_lease(store, shown):
        check_nets(grid.evaluate, lambda: (task for plan in plans for task in plan.missing(store).values()))
        tracker = tracker_for(shown, store, request.tracking_uri())
        tuning = Tuning(request, grid, root, pinned, store, tracker, show)
        is_finished = False
        try:
            tuning.run(plans)
            shown = settled(rung_plans(grid, store, root, pinned) if search_of(grid) else plans, store)
            tuning.remember(shown, plans)
            for record in records(shown, store):
                tracker.put(record)
            is_finished = True
            report = tuning.report(shown, time.monotonic() - started)
            return report, tracker.finish(note_rows(shown, store))
        finally:
            tuning.close()
            if not is_finished:
                tracker.finish((), timeout_s=5.0)


def is_shared(task: Task) -> bool:
    """Whether points share what the task makes: data, statistics, trainings, and the features they are compared to."""
    return task.stage in (*SHARDED, "train", "ladder") or (task.stage == "features" and "images" not in task.inputs)


@dataclass
class Tuning:
    """One command at work."""

    request: Request
    grid: GridSpec
    root: str
    pinned: dict[str, Any]
    store: Store
    tracker: Tracker
    show: Show
    rungs: list[RungCount] = field(default_factory=list[RungCount])
    _executed: Counter[str] = field(default_factory=Counter[str])
    _evaluated: dict[Key, Task] = field(default_factory=dict[Key, Task])
    _failures: dict[str, str] = field(default_factory=dict[str, str])
    _kinds: set[str] = field(default_factory=set[str])
    _stopped: str | None = None
    _interrupted: bool = False
    _cluster: "KeptExecutor | None" = None
    _ends: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        assert self.grid.tune is not None
        self.tune: TuneSpec = self.grid.tune
        self.log = TrialLog(self.store, self.grid.name)
        self.status = StatusWriter(self.store, self.grid.name)

    @property
    def must_end(self) -> bool:
        """A signal came, or the grid was stopped."""
        return self._interrupted or self._stopped is not None

    def run(self, plans: Sequence[Plan]) -> None:
        """All rungs, then the search if there is one."""
        self.remember(settled(plans, self.store), plans)
        for index, plan in enumerate(plans):
            points = entrants(self.grid, plans, self.store, index)
            self.rung(index + 1, _title(plans, index), plan, points)
            if self.must_end:
                return
            is_last = index + 1 == len(plans)
            going_on = [] if is_last else promoted(self.grid, plan, self.store, points)
            self._track(plans, plan, [point for point in points if point not in going_on])
        if search_of(self.grid) is not None:
            search_points(self)

    def rung(self, number: int, title: str, plan: Plan, points: Sequence[Point]) -> None:
        """What the points lack: shared tasks by the executor of `run`, the rest by trials; damaged artifacts again."""
        part = of_points(plan, points)
        failures: dict[str, str] = {}
        executed = 0
        for _ in range(HEALING_ROUNDS):
            if self.must_end or not part.missing(self.store):
                break
            self.prepare(part)
            left = part.missing(self.store)
            shared = {key for key, task in left.items() if is_shared(task)}
            lacking = [
                point for point in points if not point.is_done(self.store) or _needs(point, left.keys() - shared)
            ]
            ready = [point for point in lacking if not _needs(point, shared)]
            if self.must_end or not ready:
                break
            failures, was_continued = self._trials(number, title, plan, points, ready)
            undone = [point for point in ready if not point.is_done(self.store)]
            executed += len(ready) - len(undone)
            is_damaged = any(reason.startswith(DAMAGED) for reason in failures.values())
            if not is_damaged and not (was_continued and len(undone) > len(failures)):
                break
        self.fail(failures)
        self.rungs.append(RungCount(title, len(points), executed, len(failures)))

    def prepare(self, plan: Plan, wanted: Callable[[Task], bool] = is_shared) -> None:
        """Run the shared tasks of a plan that are missing; trainings use Ray Train."""
        events = GridEvents(plan, self.store, self.tracker, self.show)
        report = run_missing(plan, self.store, self.executor, events=events, wanted=wanted)
        self._executed.update(report.executed)
        self._failures |= dict(report.failures)
        self._kinds |= report.kinds
        self._stopped = self._stopped or report.stopped
        self._interrupted |= report.interrupted

    def _trials(
        self, number: int, title: str, plan: Plan, points: Sequence[Point], ready: Sequence[Point]
    ) -> tuple[dict[str, str], bool]:
        """Run Tune on the points that are ready; reasons of the trials that failed, and whether it was continued."""
        self.executor()
        from pipeline.tune.experiment import experiment_folder, run_listed

        works = {point.name: Work(point.name, number, of_points(plan, [point])) for point in points}
        before = {point.name: works[point.name].plan.missing(self.store) for point in ready}
        watch = Watch(title, len(ready), self.show, self.status)
        identity = of_points(plan, points).fingerprint
        with stop_signal() as watch.stop:
            ended = run_listed(
                [{**point.params, "name": point.name} for point in ready],
                ListedWork(works),
                store=self.store,
                grid=self.grid.name,
                folder=experiment_folder(self.store, self.grid.name, f"rung{number}", identity),
                slots=self.slots,
                watch=watch,
            )
            self.after_trials(watch)
        failures: dict[str, str] = {}
        for point in ready:
            self.settle(works[point.name], before[point.name])
            reason = self.failure(number, point.name, ended.lost.get(point.name))
            if not point.is_done(self.store) and reason:
                failures[f"trial {point.name} ({title})"] = reason
        return failures, ended.was_continued

    def after_trials(self, watch: Watch) -> None:
        """Remember why an experiment ended."""
        self._interrupted |= watch.stop.is_set()
        self._stopped = self._stopped or watch.stopped

    def settle(self, work: Work, before: Mapping[Key, Task]) -> None:
        """Count the tasks that a trial ran in this command, and keep their times where rows look for them.

        Args:
            work: of the trial.
            before: its tasks that were missing when the command began.
        """
        record = self.log.read(work.rung, work.point)
        timings = Timings(self.store, self.grid.name)
        after = work.plan.missing(self.store)
        for key, task in before.items():
            if key not in after:
                self._executed[task.stage] += 1
                self._evaluated[key] = task
                if task.stage != "result" and str(key) in record.seconds:
                    timings.add(Outcome(key, seconds=record.seconds[str(key)]))
        timings.save()
        if not after:
            settle_record(self.log, record)

    def failure(self, rung: int, point: str, lost: str | None) -> str | None:
        """Why a trial failed: as Tune saw its process die, else as the trial wrote it down."""
        record = self.log.read(rung, point)
        if lost is not None and record.state == "running":
            record = self.log.failed(record, lost.partition(":")[0], lost)
        return lost or (record.reason if record.state == "failed" else None)

    def fail(self, failures: Mapping[str, str]) -> None:
        """Failures of trials that are not tried again, by what people see."""
        self._failures |= failures
        self._kinds |= {reason.partition(":")[0] for reason in failures.values()}

    def _track(self, plans: Sequence[Plan], plan: Plan, points: Sequence[Point]) -> None:
        """Rows of points that go no further are final."""
        shown = settled(plans, self.store)
        for row in finished_rows(of_points(plan, points), self.store):
            self.tracker.put(result_record(shown, row, self.store))

    def remember(self, shown: Plan, plans: Sequence[Plan]) -> None:
        """The grid's document: what is shown, and everything that a collection must keep."""
        text = json.dumps(plan_document(shown, plans), indent=1)
        grid_documents(self.store, self.grid.name).put("plan.json", text.encode())

    def executor(self) -> Executor:
        """The executor of the shared tasks; starts Ray when it is asked for first."""
        if self._cluster is None:
            prepare_environment(self.request.address)
            from pipeline.tune.cluster import start_cluster  # only here: it takes seconds, and reads the environment

            greet = greeting(self.request)
            scratch = self._ends.enter_context(scratch_folder())
            self._cluster = start_cluster(
                self.request.address,
                self.request.max_units,
                store=self.store,
                grid=self.grid.name,
                scratch=scratch,
            )
            greet(self.store)
        return self._cluster

    @property
    def slots(self) -> Any:
        """What trials may use of the cluster."""
        from pipeline.tune.experiment import Slots

        assert self._cluster is not None
        units = self._cluster.total_units
        return Slots(min(units, self.tune.max_concurrent or units), self._cluster.has_gpus)

    def close(self) -> None:
        """Leave Ray, if it was started, and clear its scratch."""
        with self._ends:
            if self._cluster is not None:
                self._cluster.shutdown()

    def report(self, shown: Plan, seconds: float) -> TuneReport:
        """What the command did."""
        num_rows = sum(self.store.find(cell.key) is not None for cell in shown.cells) if self._failures else 0
        run = RunReport(
            dict(self._executed),
            tuple(self._failures.items()),
            self._stopped,
            self._interrupted,
            frozenset(self._kinds),
            num_rows,
        )
        evaluations = evaluations_of(self._evaluated.values(), self.store)
        return TuneReport(shown, run, tuple(self.rungs), evaluations, seconds)


def _needs(point: Point, keys: set[Key]) -> bool:
    return any(task.key in keys for cell in point.cells for task in cell.tasks.in_order())


def _title(plans: Sequence[Plan], index: int) -> str:
    if len(plans) == 1:
        return "trials"
    earlier = set(plans[index - 1].grid.evaluate.metrics) if index else set[str]()
    added = [metric for metric in plans[index].grid.evaluate.metrics if metric not in earlier]
    return f"rung {index + 1} ({', '.join(added)})"
