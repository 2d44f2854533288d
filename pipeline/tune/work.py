"""What one trial does: run what its rows lack, write down how it went, and return what was measured."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from pipeline.grid.plan import Cell, Plan, make_plan
from pipeline.grid.proposals import Proposal, proposal_grid, rounded, search_of
from pipeline.grid.records import finished_rows
from pipeline.grid.schedule import FINAL, signature
from pipeline.grid.spec import GridSpec
from pipeline.grid.tasks import execute
from pipeline.grid.trials import TrialLog, TrialRecord
from pipeline.store import Store
from pipeline.train.outcome import Failure

log = logging.getLogger(__name__)

FAILED = "failed"
"""Entry of a trial's report that holds the reason of its failure."""


@dataclass(frozen=True)
class Work:
    """One trial.

    Attributes:
        point: its name; the name of its record, too.
        rung: from 1.
        plan: the rows that it evaluates, and their tasks.
    """

    point: str
    rung: int
    plan: Plan = field(repr=False)


class Planner(Protocol):
    """Knows what a trial with a configuration of Tune's has to do. Travels to the trial's process."""

    def name(self, config: Mapping[str, Any]) -> str: ...
    def work(self, config: Mapping[str, Any]) -> Work: ...


@dataclass(frozen=True)
class ListedWork:
    """Trials of points that are known; the configuration holds `point`, the point's parameters with its name."""

    works: Mapping[str, Work] = field(repr=False)

    def name(self, config: Mapping[str, Any]) -> str:
        """Name of the point."""
        return str(config["point"]["name"])

    def work(self, config: Mapping[str, Any]) -> Work:
        """The work of the point with this name."""
        return self.works[self.name(config)]


@dataclass(frozen=True)
class ProposedWork:
    """Trials of a search; the configuration holds coordinates, which are rounded and planned where the trial runs.

    Attributes:
        grid: with a search.
        root: folder of relative data locations.
        pinned: the data sets with their digests, so that no trial reads them.
    """

    grid: GridSpec
    root: str
    pinned: Mapping[str, Any] = field(repr=False)

    def name(self, config: Mapping[str, Any]) -> str:
        """Name of the proposal."""
        return proposal_name(self._proposal(config))

    def work(self, config: Mapping[str, Any]) -> Work:
        """The rows of the proposal, of all seeds.

        Raises:
            ConfigError: the proposal is no valid combination.
        """
        proposal = self._proposal(config)
        plan = make_plan(proposal_grid(self.grid, proposal), root=self.root, pinned=dict(self.pinned))
        return Work(proposal_name(proposal), 1, plan)

    def _proposal(self, config: Mapping[str, Any]) -> Proposal:
        search = search_of(self.grid)
        assert search is not None
        return rounded(search, config)


def proposal_name(proposal: Proposal) -> str:
    """The name that the point has among the grid's points, without its seed."""
    letters = {"softness_a": "a", "ordering_r": "r"}
    return "/".join(["gud", *(f"{letters[name]}={value:g}" for name, value in proposal.items())])


def run_work(work: Work, store: Store, grid: str) -> dict[str, Any]:
    """Run the missing tasks of a trial in this process, inputs before their users.

    A failure that another attempt cannot cure, or that came twice, is returned; any other is raised, so that Tune
    tries again. Tasks that were finished before are never repeated.

    Args:
        work: the rows and their tasks.
        store: has the shared inputs and receives the artifacts.
        grid: name of the grid, whose documents hold the trial's record.

    Returns:
        The metrics of `row_metrics` and `tasks_run`, or `failed` with the reason.
    """
    records = TrialLog(store, grid)
    record = records.read(work.rung, work.point)
    missing = work.plan.missing(store)
    if missing:
        earlier = record.reason
        record = records.started(record, len(missing))
        for task in missing.values():
            start = time.monotonic()
            try:
                execute(task, store)
            except Exception as error:  # the boundary of a trial: recorded here, the others go on
                failure = Failure.of(error)
                reason = signature(failure)
                records.failed(record, failure.kind, reason)
                log.warning("event=trial_failed point=%r task=%r reason=%r", work.point, task.label, reason)
                if failure.kind in FINAL or reason == earlier:
                    return {FAILED: reason, "tasks_run": 0}
                raise
            record = records.task_done(record, str(task.key), time.monotonic() - start)
    settle_record(records, record)
    return {**row_metrics(work.plan, store), "tasks_run": len(missing)}


def settle_record(records: TrialLog, record: TrialRecord) -> None:
    """Write down that a point is evaluated, unless that is known or it was evaluated without a trial."""
    if record.starts and record.state != "done":
        records.done(record)


def row_metrics(plan: Plan, store: Store) -> dict[str, float]:
    """Metrics of the finished rows: the mean over seeds, after the sampler's name where there are several."""
    values: dict[str, list[float]] = {}
    labels = _labels(plan.cells)
    for row in finished_rows(plan, store):
        label = labels[row.cell.name]
        for name, value in row.metrics.items():
            values.setdefault(f"{label}/{name}" if label else name, []).append(value)
    return {name: fmean(found) for name, found in values.items()}


def _labels(cells: tuple[Cell, ...]) -> dict[str, str]:
    """What the names of the rows do not share, apart from the seed."""
    parts = {cell.name: cell.name.split("/") for cell in cells}
    shared = set[str].intersection(*map(set, parts.values()))
    return {
        cell.name: "-".join(
            part for part in parts[cell.name] if part not in shared and part != f"seed{cell.params['seed']}"
        )
        for cell in cells
    }
