"""Points, rungs, promotion with ties, and what is shown of a grid whose points stand on different rungs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import ConfigError
from pipeline.grid import load_grid, make_plan
from pipeline.grid.rungs import entrants, points_of, promoted, rung_grids, rung_plans, session_plan, settled_plan
from pipeline.store import Store, open_store
from tests.tune_cases import put_result, tuned

ROOT = Path(__file__).parent.parent.parent
WORST = [4.0, 5.0, 3.0, 6.0]


def store_with_bounds(tmp_path: Path, offsets: dict[str, Any], **changes: Any) -> Store:
    """A store in which the first rung is finished; a point's ELBO is WORST plus its offset."""
    store = open_store(tmp_path)
    plan = rung_plans(tuned(**changes), store, None)[0]
    for point in points_of(plan):
        for cell in point.cells:
            offset = offsets.get(point.name)
            bits = {} if offset is None else {"elbo": list(np.array(WORST) + np.array(offset))}
            if point.name not in offsets:
                continue
            put_result(store, cell.tasks.result, {}, **bits)
    return store


def names(points: Any) -> list[str]:
    return [point.name for point in points]


def test_a_point_holds_the_rows_of_all_its_samplers() -> None:
    points = points_of(make_plan(tuned(), root="."))
    assert names(points) == ["gud/a=0.4", "gud/a=0.8", "gud/a=1.2", "gud/a=1.6", "gaussian"]
    assert [len(point.cells) for point in points] == [2, 2, 2, 2, 1]
    assert points[1].params["softness_a"] == 0.8
    assert "sampler" not in points[1].params


def test_each_seed_is_a_point_of_its_own() -> None:
    points = points_of(make_plan(tuned(seeds=[0, 1]), root="."))
    assert "gud/a=0.4/seed1" in names(points)
    assert len(set(names(points))) == len(points) == 10


def test_samplers_that_share_kind_and_steps_stay_in_one_point() -> None:
    samplers = {"gud": [{"kind": "ddim", "eta": [0.0, 0.5], "steps": 2}]}
    points = points_of(make_plan(tuned(evaluate={"samplers": samplers}), root="."))
    assert [len(point.cells) for point in points] == [2, 2, 2, 2, 1]


@pytest.mark.slow
def test_the_rehearsal_of_the_maps_has_ninety_points_of_twelve_samplers() -> None:
    points = points_of(make_plan(load_grid(str(ROOT / "grids/gud_analytic_grid.yaml")), root="."))
    assert len(points) == len(set(names(points))) == 90
    assert {len(point.cells) for point in points} == {12}


def test_a_rung_measures_what_the_rungs_before_measured_and_more() -> None:
    grid = tuned(tune={"mode": "staged", "rungs": [["nll"], ["elbo"], ["fd_clf"]]}, evaluate={"studies": ["forward"]})
    rungs = rung_grids(grid)
    assert [rung.evaluate.metrics for rung in rungs] == [("nll",), ("elbo", "nll"), ("elbo", "nll", "fd_clf")]
    assert [len(rung.evaluate.studies) for rung in rungs] == [0, 0, 1]
    assert rungs[-1] == grid
    assert len(rung_grids(tuned(tune={"mode": "exhaustive"}))) == 1


def test_a_rung_is_not_sorted_by_what_it_does_not_measure() -> None:
    first, last = rung_grids(tuned(evaluate={"primary": "fd_clf_digits"}))
    assert (first.evaluate.primary, last.evaluate.primary) == (None, "fd_clf_digits")


def test_points_have_one_name_and_identity_on_every_rung() -> None:
    first, last = (points_of(plan) for plan in rung_plans(tuned(seeds=[0, 1]), None, None))
    named = {point.name: point.identity for point in last}
    del named["gaussian/seed1"]  # without images the control is the same for every seed: merged on the first rung
    assert {point.name: point.identity for point in first} == named
    assert {len(point.cells) for point in first} == {1}, "the bound does not depend on the sampler"


def test_the_deeper_rung_uses_the_blocks_of_the_one_before() -> None:
    first, last = rung_plans(tuned(), None, None)
    blocks = {key for key, task in first.tasks.items() if task.stage == "likelihood"}
    assert blocks
    assert blocks <= last.tasks.keys()


def test_the_best_go_on_with_all_that_cannot_be_told_from_the_last_of_them(tmp_path: Path) -> None:
    offsets = {
        "gud/a=0.4": 0.0,
        "gud/a=0.8": 0.1,
        "gud/a=1.2": [0.0, 0.3, 0.0, 0.3],  # 0.05 +- 0.087 worse than the second, 0.15 +- 0.087 than the best: ties
        "gud/a=1.6": 0.2,  # 0.1 worse on every image: no tie, however much images differ among each other
        "gaussian": None,
    }
    store = store_with_bounds(tmp_path, offsets)
    grid = tuned()
    plan = rung_plans(grid, store, None)[0]
    assert names(promoted(grid, plan, store)) == ["gud/a=0.4", "gud/a=0.8", "gud/a=1.2", "gaussian"]
    alone = tuned(tune={"promote": 1})
    assert names(promoted(alone, plan, store)) == ["gud/a=0.4", "gud/a=1.2", "gaussian"]


def test_a_point_that_failed_does_not_go_on(tmp_path: Path) -> None:
    store = store_with_bounds(tmp_path, {"gud/a=0.4": 0.0, "gud/a=1.6": 0.5})
    grid = tuned()
    plans = rung_plans(grid, store, None)
    assert names(entrants(grid, plans, store, 1)) == ["gud/a=0.4", "gud/a=1.6"]
    assert len(entrants(grid, plans, store, 0)) == 5


def test_rows_without_the_metric_always_go_on(tmp_path: Path) -> None:
    offsets = dict.fromkeys(("gud/a=0.4", "gud/a=0.8", "gud/a=1.2", "gud/a=1.6", "gaussian"))
    store = store_with_bounds(tmp_path, offsets)
    grid = tuned(tune={"promote": 1})
    assert len(promoted(grid, rung_plans(grid, store, None)[0], store)) == 5


def test_a_control_that_an_early_rung_cannot_tell_from_another_enters_the_next(tmp_path: Path) -> None:
    grid = [{"baseline": "gud", "softness_a": 1.0}, {"baseline": ["mean_image", "test_split"]}]
    store = store_with_bounds(tmp_path, {"gud": 0.0, "mean_image": None, "test_split": None}, grid=grid)
    spec = tuned(grid=grid)
    plans = rung_plans(spec, store, None)
    assert "test_split" in names(entrants(spec, plans, store, 1))
    assert "mean_image" in names(entrants(spec, plans, store, 1))


def test_each_point_is_shown_at_the_deepest_rung_that_the_store_has(tmp_path: Path) -> None:
    grid = tuned()
    offsets = {"gud/a=0.4": 0.0, "gud/a=0.8": 0.1, "gud/a=1.2": 0.5, "gud/a=1.6": 0.6, "gaussian": None}
    store = store_with_bounds(tmp_path, offsets)
    first, last = rung_plans(grid, store, None)
    by_name = {point.name: point for point in points_of(last)}
    for cell in by_name["gud/a=0.4"].cells:
        put_result(store, cell.tasks.result, {}, elbo=WORST)
    put_result(store, by_name["gud/a=0.8"].cells[0].tasks.result, {}, elbo=WORST)  # one row of two: not finished
    plan = settled_plan(grid, store)
    shown = {point.name: point for point in points_of(plan)}
    assert {name: len(point.cells) for name, point in shown.items() if name != "gaussian"} == {
        "gud/a=0.4": 2,
        "gud/a=0.8": 1,
        "gud/a=1.2": 1,
        "gud/a=1.6": 1,
    }
    assert len({cell.name for cell in plan.cells}) == len(plan.cells) == 6
    assert set(plan.tasks) < {*first.tasks, *last.tasks}
    assert plan.grid == grid


def test_without_results_the_rows_of_the_last_rung_are_shown(tmp_path: Path) -> None:
    grid = tuned()
    whole = [cell.key for cell in make_plan(grid, root=".").cells]
    assert [cell.key for cell in session_plan(grid, None).cells] == whole
    assert [cell.key for cell in session_plan(grid, open_store(tmp_path)).cells] == whole


@pytest.mark.parametrize("mode", ["exhaustive", "staged"])
def test_gud_rows_with_different_ends_are_refused(mode: str) -> None:
    grid = [{"baseline": "gud", "softness_a": 1.0, "log_snr_data": [5.0, 7.0]}]
    with pytest.raises(ConfigError, match=r"\(5, -7\) in gud/.*, \(7, -7\) in .*tune.equal_ends: false"):
        session_plan(tuned(grid=grid, tune={"mode": mode}), None)
    assert len(session_plan(tuned(grid=grid, tune={"mode": mode, "equal_ends": False}), None).cells) == 4
