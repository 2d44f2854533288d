"""`tune` after kill -9 of its driver, and after SIGINT: the same command finishes and repeats no finished trial."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.commands import contents, kill, run, start, wait_until
from tests.tune_cases import SEARCH, tuned_file

pytestmark = pytest.mark.slow

BLOCKS = [
    {"baseline": "gud", "softness_a": [0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.5, 1.6], "amortise": {"softness_a": [0.4, 1.6]}},
    {"baseline": "gaussian"},
]
EVALUATE = {"metrics": ["elbo", "nll"], "nll_images": 120, "nll_block_images": 20}
SLOW = {"grid": BLOCKS, "evaluate": EVALUATE, "tune": {"mode": "exhaustive"}}


def records(store: Path) -> dict[str, dict[str, Any]]:
    """What the trials wrote about themselves."""
    return {path.stem: json.loads(path.read_text()) for path in store.glob("grids/tuned/trials/*/*.json")}


def finished(store: Path) -> set[str]:
    return {name for name, record in records(store).items() if record["finished"]}


def test_a_killed_driver_is_continued_and_no_finished_trial_is_repeated(tmp_path: Path) -> None:
    grid = tuned_file(tmp_path, **SLOW)
    reference, store = tmp_path / "reference", tmp_path / "store"
    undisturbed = run("tune", str(grid), "--store", str(reference), "--tracking", "none")
    assert undisturbed.code == 0, undisturbed.output

    arguments = ("tune", str(grid), "--store", str(store), "--tracking", "none")
    cache = str(tmp_path / "cache")
    process = start(*arguments, PIPELINE_CACHE_DIR=cache)
    wait_until(lambda: len(finished(store)) >= 3, 300, process)
    kill(process)
    before = records(store)
    done = {name for name, record in before.items() if record["finished"]}
    assert 3 <= len(done) < 9, "killed in the middle"

    continued = run("-v", *arguments, PIPELINE_CACHE_DIR=cache)
    assert continued.code == 0, continued.output
    assert "event=experiment_continued" in continued.output
    after = records(store)
    assert {name: after[name] for name in done} == {name: before[name] for name in done}, "not one began again"
    assert len(after) == 9
    assert all(record["state"] == "done" and record["finished"] == 1 for record in after.values())
    assert all(record["starts"] <= 2 for record in after.values())
    match = re.search(r"trials executed: trials (\d+) of 9 points", continued.output)
    assert match is not None, continued.output
    assert int(match[1]) <= 9 - len(done), "orphans of the killed driver may have finished what they were at"
    assert contents(str(store)) == contents(str(reference))
    assert "9 of 9 rows finished" in run("status", str(grid), "--store", str(store)).output


def test_an_interrupted_tune_says_so_and_goes_on_later(tmp_path: Path) -> None:
    grid, store = tuned_file(tmp_path, **SLOW), tmp_path / "store"
    arguments = ("tune", str(grid), "--store", str(store), "--tracking", "none")
    process = start(*arguments)
    wait_until(lambda: len(finished(store)) >= 2, 300, process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "interrupted: repeat the same command to continue" in output
    done = finished(store)
    again = run(*arguments)
    assert again.code == 0, again.output
    assert all(record["finished"] == 1 for record in records(store).values())
    assert all(records(store)[name]["starts"] == 1 for name in done)


def test_a_killed_search_keeps_its_proposals(tmp_path: Path) -> None:
    search = {**SEARCH["tune"]["search"], "num_trials": 9}
    changes = {**SEARCH, "evaluate": {**SEARCH["evaluate"], **EVALUATE, "metrics": ["elbo"]}}
    grid = tuned_file(tmp_path, **{**changes, "tune": {**SEARCH["tune"], "search": search}})
    store = tmp_path / "store"
    arguments = ("tune", str(grid), "--store", str(store), "--tracking", "none")
    process = start(*arguments)
    wait_until(lambda: len(finished(store)) >= 4, 300, process)
    kill(process)
    done = finished(store)
    points = json.loads((store / "grids/tuned/points.json").read_text())["proposals"]
    continued = run(*arguments)
    assert continued.code == 0, continued.output
    after = json.loads((store / "grids/tuned/points.json").read_text())["proposals"]
    assert after[: len(points)] == points
    assert 9 <= len(after) <= 9 + 3, "what was proposed after the last saved state may be proposed once more"
    assert all(records(store)[name]["starts"] == 1 for name in done)
    assert all(record["state"] == "done" for record in records(store).values())
