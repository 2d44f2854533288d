"""A Ray Train group of two workers: bad cells, a killed worker, one that hangs, the same bits as one process."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store, open_store
from pipeline.train.cells import Cell, train_cells
from pipeline.train.group import solo
from tests.train_cases import CPU, cell, task

pytestmark = pytest.mark.slow


MARK = f"PIPELINE_TEST_GROUP={os.getpid()}"  # in the environment of our own workers


@pytest.fixture(scope="module")
def ray_on_two_cpus() -> Iterator[None]:
    import ray

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.3"
    name, value = MARK.split("=")
    os.environ[name] = value
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def outcome(ray_on_two_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One group over four cells; the worker of rank 0 is killed in the third after its first checkpoint."""
    from pipeline.train.ray import run_group

    folder: Path = tmp_path_factory.mktemp("ray")
    store = open_store(folder / "store")
    cells = {
        "first": cell(store, task(log_every_s=0.01), "first"),
        "bad": cell(store, task(lr=1e38, clip_norm=None, max_skips=1), "bad"),
        "victim": cell(store, task(steps=400, checkpoint_steps=20, log_every_s=0.01), "victim"),
        "last": cell(store, task(steps=5), "last"),
    }
    events: list[dict[str, Any]] = []
    killed: list[int] = []

    def kill_once(event: dict[str, Any]) -> None:
        events.append(event)
        if event["label"] == "victim" and event["state"] == "running" and event["step"] >= 20 and not killed:
            killed.append(event["step"])
            os.kill(event["pid"], signal.SIGKILL)

    failures = run_group(
        [(c.key, c.task, c.inputs, c.label) for c in cells.values()],
        store=store,
        grid="g",
        num_workers=2,
        run_name="run-1",
        storage_path=str(folder / "scratch"),
        on_event=kill_once,
    )
    return {"store": store, "cells": cells, "events": events, "killed": killed, "failures": failures}


def files(store: Store, trained: Cell) -> dict[str, str]:
    artifact = store.find(trained.key)
    assert artifact is not None
    return {name: entry.sha256 for name, entry in artifact.files.items()}


def test_the_bad_cell_is_recorded_and_the_others_are_finished(outcome: dict[str, Any]) -> None:
    cells = outcome["cells"]
    assert {key: failure["kind"] for key, failure in outcome["failures"].items()} == {cells["bad"].key: "Diverged"}
    assert all(outcome["store"].find(cells[name].key) is not None for name in ("first", "victim", "last"))


def test_a_killed_worker_costs_no_more_than_a_checkpoint_interval(outcome: dict[str, Any]) -> None:
    assert len(outcome["killed"]) == 1
    starts = [event["start_step"] for event in outcome["events"] if event["label"] == "victim"]
    assert outcome["killed"][0] - 20 <= max(starts)


@pytest.mark.parametrize("name", ["first", "victim"])
def test_files_are_those_of_one_process(outcome: dict[str, Any], name: str, tmp_path: Path) -> None:
    alone = open_store(tmp_path)
    same = cell(alone, outcome["cells"][name].task)
    assert train_cells([same], alone, group=solo(), device=CPU) == {}
    assert files(alone, same) == files(outcome["store"], outcome["cells"][name])


def test_events_tell_the_end_of_every_cell(outcome: dict[str, Any]) -> None:
    ends = {event["label"]: event["state"] for event in outcome["events"]}
    assert ends == {"first": "done", "bad": "failed", "victim": "done", "last": "done"}


def workers() -> list[int]:
    """Processes that train in our Ray."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title, variables = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            if title.startswith(b"ray::RayTrainWorker") and MARK.encode() in variables.split(b"\0"):
                found.append(int(folder.name))
    return found


def test_a_worker_that_hangs_is_noticed_and_the_group_starts_again(ray_on_two_cpus: None, tmp_path: Path) -> None:
    from pipeline.train.ray import run_group

    store = open_store(tmp_path / "store")
    hung = cell(store, task(steps=400, checkpoint_steps=20, log_every_s=0.01, stuck_after_s=2), "hung")
    stopped: list[int] = []
    seen: list[dict[str, Any]] = []

    def stop_once(event: dict[str, Any]) -> None:
        seen.append(event)
        if event["state"] == "running" and event["step"] >= 20 and not stopped:
            (other,) = set(workers()) - {event["pid"]}
            stopped.append(other)
            os.kill(other, signal.SIGSTOP)

    started = time.monotonic()
    failures = run_group(
        [(hung.key, hung.task, hung.inputs, hung.label)],
        store=store,
        grid="g",
        num_workers=2,
        run_name="hanging",
        storage_path=str(tmp_path / "scratch"),
        on_event=stop_once,
    )
    assert failures == {}
    assert len(stopped) == 1
    assert time.monotonic() - started < 120  # neither Ray's health check nor the collective's timeout
    assert max(event["start_step"] for event in seen) >= 20
    assert not Path(f"/proc/{stopped[0]}").exists()
    alone = open_store(tmp_path / "alone")
    same = cell(alone, hung.task)
    assert train_cells([same], alone, group=solo(), device=CPU) == {}
    assert files(alone, same) == files(store, hung)
