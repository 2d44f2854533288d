"""The search of a grid: Optuna proposes points, each becomes rows like any other, and Tune evaluates them."""

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pipeline.grid.plan import Plan, make_plan
from pipeline.grid.points import points_of
from pipeline.grid.proposals import (
    Proposal,
    add_proposal,
    bounds,
    is_inside,
    proposal_grid,
    read_proposals,
    rounded,
    search_of,
)
from pipeline.grid.records import finished_rows
from pipeline.grid.run import stop_signal
from pipeline.grid.rungs import rung_plans
from pipeline.grid.spec import GridSpec
from pipeline.grid.tasks import Task
from pipeline.store import Key, fingerprint
from pipeline.tune.report import RungCount
from pipeline.tune.watch import Watch
from pipeline.tune.work import ProposedWork, Work, proposal_name

if TYPE_CHECKING:
    from pipeline.tune.driver import Tuning

TITLE = "search"


def search_points(tuning: "Tuning") -> None:
    """Let the searcher propose what is left of `num_trials`, and evaluate it.

    Points of the grid that lie in the space, and proposals of earlier commands, are known to the searcher.
    """
    grid, store = tuning.grid, tuning.store
    search = search_of(grid)
    assert search is not None
    earlier = read_proposals(store, grid)
    num_left = search.num_trials - len(earlier)
    if num_left <= 0:
        tuning.rungs.append(RungCount(TITLE, search.num_trials, 0))
        return
    corners = corner_plans(grid, tuning.root, tuning.pinned)
    common = set[Key].intersection(*(set(plan.tasks) for plan in corners))
    tuning.prepare(corners[0], lambda task: task.key in common)
    if tuning.must_end:
        return
    tuning.executor()
    from pipeline.tune.experiment import experiment_folder, run_search
    from pipeline.tune.searcher import PointSearch

    planner = ProposedWork(grid, tuning.root, tuning.pinned)
    works: dict[str, tuple[Work, Mapping[Key, Task]]] = {}
    trials: set[str] = set()

    def began(trial: str, config: dict[str, Any]) -> None:
        add_proposal(store, grid, trial, rounded(search, config))
        trials.add(trial)
        work = planner.work(config)
        if work.point not in works:
            works[work.point] = work, work.plan.missing(store)

    watch = Watch(TITLE, num_left, tuning.show, tuning.status, began)
    identity = fingerprint("search", 1, search.model_dump(mode="json"), {"first": corners[0].cells[0].key})
    with stop_signal() as watch.stop:
        ended = run_search(
            PointSearch(search, _known(tuning)),
            planner,
            num_trials=num_left,
            store=store,
            grid=grid.name,
            folder=experiment_folder(store, grid.name, TITLE, identity),
            slots=tuning.slots,
            watch=watch,
        )
        tuning.after_trials(watch)
    failures: dict[str, str] = {}
    executed = 0
    for name, (work, before) in works.items():
        tuning.settle(work, before)
        is_done = not work.plan.missing(store)
        executed += bool(before) and is_done
        reason = tuning.failure(work.rung, name, ended.lost.get(name))
        if not is_done and reason:
            failures[f"trial {name} ({TITLE})"] = reason
    tuning.fail(failures)
    tuning.rungs.append(RungCount(TITLE, len(trials), executed, len(failures)))


def corner_plans(grid: GridSpec, root: str, pinned: dict[str, Any]) -> list[Plan]:
    """Plans of two opposite corners of the searched space; `pinned`: see `make_plan`.

    Raises:
        ConfigError: a corner is no valid combination, for example because no network was trained for it.
    """
    search = search_of(grid)
    assert search is not None
    corners = [{name: ends[index] for name, ends in bounds(search).items()} for index in (0, 1)]
    return [make_plan(proposal_grid(grid, corner), root=root, pinned=pinned) for corner in corners]


def _known(tuning: "Tuning") -> list[tuple[Proposal, float]]:
    """Points of the space whose rows are in the store, with the metric: the mean over seeds."""
    grid, store = tuning.grid, tuning.store
    search = search_of(grid)
    assert search is not None
    points = points_of(rung_plans(grid, store, tuning.root, tuning.pinned)[-1])
    inside = [rounded(search, point.params) for point in points if is_inside(search, point.params)]
    known: list[tuple[Proposal, float]] = []
    for proposal in {proposal_name(proposal): proposal for proposal in inside}.values():
        plan = make_plan(proposal_grid(grid, proposal), root=tuning.root, pinned=tuning.pinned)
        rows = finished_rows(plan, store)
        values = [row.metrics[search.metric] for row in rows if search.metric in row.metrics]
        if values and len(rows) == len(plan.cells):
            known.append((proposal, fmean(values)))
    return known
