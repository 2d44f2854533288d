"""A small grid through Ray Tune, as a user runs it: every point, staged promotion, and a search."""

import json
from pathlib import Path

import pytest

from tests.commands import Finished, contents, run
from tests.tune_cases import SEARCH, tuned_file

pytestmark = pytest.mark.slow
WITHOUT_IMAGES = {"metrics": ["elbo", "nll"]}


def tune(grid: Path, store: Path, **extra: str) -> Finished:
    return run("tune", str(grid), "--store", str(store), "--tracking", "none", **extra)


def test_every_point_is_a_trial_and_the_second_command_starts_nothing(tmp_path: Path) -> None:
    grid, store = tuned_file(tmp_path, tune={"mode": "exhaustive"}), tmp_path / "store"
    first = tune(grid, store, PIPELINE_SCRATCH=str(tmp_path))
    assert first.code == 0, first.output
    assert not list(tmp_path.glob("pipeline-train-*"))
    assert "trials executed: trials 5 of 5 points" in first.output
    assert "trainings 2; evaluations: 360 images drawn, ELBO of 80, NLL of 100 images" in first.output
    status = run("status", str(grid), "--store", str(store)).output
    assert "9 of 9 rows finished" in status
    assert "trials of rung 1: 5 done, 0 interrupted, 0 failed" in status

    before = contents(str(store))
    second = tune(grid, store, RAY_ADDRESS="127.0.0.1:1")  # a cluster that cannot be joined: nothing may try
    assert second.code == 0, second.output
    assert "trials executed: none: every result was in the store" in second.output
    assert contents(str(store)) == before
    plain = run("run", str(grid), "--store", str(store), "--tracking", "none", RAY_ADDRESS="127.0.0.1:1")
    assert "stages executed: none" in plain.output


def test_a_staged_grid_shows_every_point_at_its_rung(tmp_path: Path) -> None:
    grid = tuned_file(tmp_path, evaluate=WITHOUT_IMAGES, tune={"rungs": [["elbo"], ["nll"]], "promote": 1})
    store = tmp_path / "store"
    uri = f"sqlite:///{tmp_path / 'tracking.db'}"
    finished = run("tune", str(grid), "--store", str(store), "--tracking", uri)
    assert finished.code == 0, finished.output
    assert "rung 1 (elbo) 5 of 5 points, rung 2 (nll)" in finished.output
    assert "MLflow: " in finished.output
    assert "5 of 5 rows finished" in run("status", str(grid), "--store", str(store)).output
    rows = run("table", str(grid), "--store", str(store), "--format", "csv").output
    assert len(rows.splitlines()) == 6


def test_a_search_keeps_its_points_as_rows(tmp_path: Path) -> None:
    grid, store = tuned_file(tmp_path, **SEARCH), tmp_path / "store"
    finished = tune(grid, store)
    assert finished.code == 0, finished.output
    assert "trials 1 of 1 points, search 5 of 5 points" in finished.output
    entries = json.loads((store / "grids/tuned/points.json").read_text())["proposals"]
    softness = [entry["point"]["softness_a"] for entry in entries]
    assert len(set(softness) | {1.0}) == 6, "no point is evaluated twice"
    assert all(round(value / 0.1) * 0.1 == pytest.approx(value) for value in softness)
    assert "6 of 6 rows finished" in run("status", str(grid), "--store", str(store)).output
    again = tune(grid, store, RAY_ADDRESS="127.0.0.1:1")
    assert "trials executed: none: every result was in the store" in again.output
    more = tune(
        tuned_file(
            tmp_path, **{**SEARCH, "tune": {**SEARCH["tune"], "search": {**SEARCH["tune"]["search"], "num_trials": 7}}}
        ),
        store,
    )
    assert "search 2 of 2 points" in more.output, more.output
