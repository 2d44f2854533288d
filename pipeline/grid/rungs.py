"""The rungs on which `tune` evaluates the points of a grid, which points reach the next one, and what is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.baselines import BASELINES
from pipeline.config import ConfigError
from pipeline.evaluate.comparison import Result, paired_difference
from pipeline.grid.plan import Cell, Plan, make_plan
from pipeline.grid.points import Point, of_points, points_of
from pipeline.grid.proposals import check_search, read_proposals, with_proposals
from pipeline.grid.records import primary_metric
from pipeline.grid.spec import SORTABLE, GridSpec, TuneSpec
from pipeline.store import Store

__all__ = ["Point", "check_ends", "entrants", "points_of", "promoted", "rung_grids", "session_plan", "settled_plan"]

TIE_ERRORS = 2.0
"""A paired difference within so many standard errors is a tie."""


def rung_grids(grid: GridSpec) -> tuple[GridSpec, ...]:
    """One grid per rung: staged grids measure more on each, all others measure everything on one.

    Studies belong to the last rung: they are for the points that got there.
    """
    if grid.tune is None or grid.tune.mode != "staged":
        return (grid,)
    rungs = grid.tune.rungs
    return (*(_up_to(grid, rungs[: index + 1]) for index in range(len(rungs) - 1)), grid)


def _up_to(grid: GridSpec, rungs: Sequence[Sequence[str]]) -> GridSpec:
    wanted = {metric for rung in rungs for metric in rung}
    evaluate = grid.evaluate
    metrics = tuple(metric for metric in evaluate.metrics if metric in wanted)
    possible = tuple(SORTABLE[metric] for metric in metrics if metric in SORTABLE)
    is_measured = evaluate.primary is not None and evaluate.primary.startswith(possible)
    primary = evaluate.primary if is_measured else None
    return grid.model_copy(
        update={"evaluate": evaluate.model_copy(update={"metrics": metrics, "primary": primary, "studies": ()})}
    )


def rung_plans(
    grid: GridSpec, store: Store | None, root: str | None, pinned: dict[str, Any] | None = None
) -> tuple[Plan, ...]:
    """The plan of every rung; a search's has the rows of the points that were proposed so far.

    Args:
        grid, store, root: see `session_plan`.
        pinned: see `make_plan`.

    Raises:
        ConfigError: see `make_plan`; the gud rows end at different noise levels; the search cannot work.
    """
    check_search(grid)
    pinned = {} if pinned is None else pinned
    proposals = [] if store is None else read_proposals(store, grid)
    if proposals:
        plans = (replace(make_plan(with_proposals(grid, proposals), root=root, pinned=pinned), grid=grid),)
    else:
        plans = tuple(make_plan(rung, root=root, pinned=pinned) for rung in rung_grids(grid))
    check_ends(plans[-1])
    return plans


def check_ends(plan: Plan) -> None:
    """Likelihoods compare only between schedules with the same end points.

    Raises:
        ConfigError: gud rows of a grid with a section `tune` differ in log_snr_data or log_snr_prior.
    """
    if plan.grid.tune is None or not plan.grid.tune.equal_ends:
        return
    ends: dict[tuple[float, float], str] = {}
    for cell in plan.cells:
        if cell.params["baseline"] == "gud" and "log_snr_data" in cell.params:
            ends.setdefault((cell.params["log_snr_data"], cell.params["log_snr_prior"]), cell.name)
    if len(ends) > 1:
        found = ", ".join(f"({data:g}, {prior:g}) in {name}" for (data, prior), name in list(ends.items())[:2])
        raise ConfigError(
            f"grid {plan.grid.name}: gud rows with different (log_snr_data, log_snr_prior), {found}, have no "
            "comparable likelihoods; give them the same, or set tune.equal_ends: false"
        )


def promoted(grid: GridSpec, plan: Plan, store: Store, among: Sequence[Point] | None = None) -> list[Point]:
    """The points of a finished rung that go on to the next one.

    The best `tune.promote` of each data set, and those that a paired difference cannot tell from the last of them;
    controls and points without the metric always; points that failed never.

    Args:
        grid: says how many.
        plan: of the finished rung.
        store: has its results.
        among: the points that took part; all points of the plan by default.
    """
    tune = grid.tune or TuneSpec()
    ranked: dict[str, list[_Ranked]] = {}
    chosen: set[str] = set()
    metric = ranking_metric(plan)
    points = points_of(plan) if among is None else among
    for point in points:
        results = [Result.read(artifact) for cell in point.cells if (artifact := store.find(cell.key)) is not None]
        if len(results) < len(point.cells):
            continue
        measured = [result for result in results if metric in result.row["metrics"]]
        if not measured or BASELINES[point.params["baseline"]].control is not None:
            chosen.add(point.identity)
            continue
        best = min(measured, key=lambda result: result.row["metrics"][metric])
        entry = _Ranked(point, best, float(best.row["metrics"][metric]))
        ranked.setdefault(str(point.params["dataset"]), []).append(entry)
    for group in ranked.values():
        group.sort(key=lambda entry: (entry.value, entry.point.name))
        best, rest = group[: tune.promote], group[tune.promote :]
        chosen |= {entry.point.identity for entry in best}
        chosen |= {entry.point.identity for entry in rest if _is_tie(entry.result, best[-1].result, metric)}
    return [point for point in points if point.identity in chosen]


@dataclass(frozen=True)
class _Ranked:
    point: Point
    result: Result
    value: float


def ranking_metric(plan: Plan) -> str:
    """What a rung is ranked by, small is good: the bound if there is one, else the likelihood, else the primary."""
    metrics = plan.grid.evaluate.metrics
    return next((SORTABLE[name] for name in ("elbo", "nll") if name in metrics), primary_metric(plan))


def _is_tie(result: Result, last: Result, metric: str) -> bool:
    try:
        difference = paired_difference(result, last, metric)
    except ValueError:  # a metric without errors: rank alone decides
        return False
    return difference is not None and difference.difference <= TIE_ERRORS * difference.se


def entrants(grid: GridSpec, plans: Sequence[Plan], store: Store, rung: int) -> list[Point]:
    """The points that are evaluated on a rung: all on the first, afterwards those that the rung before promoted.

    A point that the rung before had merged with a twin goes on: there was nothing to tell it by.
    """
    points = list(points_of(plans[rung]))
    if rung == 0:
        return points
    before = {point.identity for point in points_of(plans[rung - 1])}
    took_part = entrants(grid, plans, store, rung - 1)
    goes_on = {point.identity for point in promoted(grid, plans[rung - 1], store, took_part)}
    return [point for point in points if point.identity in goes_on or point.identity not in before]


def settled_plan(grid: GridSpec, store: Store, root: str | None = None) -> Plan:
    """The plan that is shown of a grid: each point at the deepest rung whose results the store has.

    A point that was not promoted stays at its own rung; one that has no results stands with the last rung's rows. A
    search's plan holds the grid's own points and those that were proposed.
    """
    return settled(rung_plans(grid, store, root), store)


def settled(plans: Sequence[Plan], store: Store) -> Plan:
    """`settled_plan` of plans that are made already."""
    if len(plans) == 1:
        return plans[0]
    by_rung = [{point.identity: point for point in points_of(plan)} for plan in plans]
    chosen: list[Point] = []
    for identity, point in by_rung[-1].items():
        rungs = [rung[identity] for rung in reversed(by_rung) if identity in rung]
        chosen.append(next((at for at in rungs if at.is_done(store)), point))
    plan = of_points(plans[-1], chosen)
    return replace(plan, cells=_uniquely_named(plan.cells))


def _uniquely_named(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Rows of different rungs may have come by the same name."""
    names = [cell.name for cell in cells]
    return tuple(
        cell if names.count(cell.name) == 1 else replace(cell, name=f"{cell.name}#{cell.key.fingerprint[:6]}")
        for cell in cells
    )


def session_plan(grid: GridSpec, store: Store | None, root: str | None = None) -> Plan:
    """What `plan`, `status`, `table`, `figures`, `why` and `sync` show of a grid.

    Args:
        grid: with or without a section `tune`.
        store: None where there is none yet.
        root: folder of relative data locations.

    Raises:
        ConfigError, DataError: see `make_plan`; also for a section `tune` that cannot work.
    """
    if grid.tune is None:
        return make_plan(grid, root=root)
    return rung_plans(grid, None, root)[-1] if store is None else settled_plan(grid, store, root)
