"""Two workers without Ray: all of them skip, fail and stop together."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from pipeline.diffusion.objectives.base import Batch
from pipeline.store import open_store
from pipeline.train.cells import train_cells
from pipeline.train.group import Group, GroupBroken, current_group
from pipeline.train.outcome import Stopped
from tests.train_cases import (
    CPU,
    FaultyData,
    cell,
    faulty_data,
    not_a_number,
    run_workers,
    spec,
    task,
    trained,
    weights,
)


def _fail(batch: Batch) -> Batch:
    raise ValueError("planted on one worker")


def one_worker_has_nan(rank: int, group: Group) -> Any:
    state = trained(spec(), group=group, with_data=lambda d: FaultyData(d, [3] if rank == 1 else [], not_a_number))
    return state.num_skipped, state.curve.last("loss"), {k: v.numpy() for k, v in weights(state).items()}


def one_worker_fails(rank: int, group: Group, url: str) -> Any:
    store = open_store(url)
    victim, next_one = cell(store, task()), cell(store, task(steps=3))
    with faulty_data([2] if rank == 1 else [], _fail):
        failures = train_cells([victim], store, group=group, device=CPU)
    failures |= train_cells([next_one], store, group=group, device=CPU)
    return [(failure.kind, failure.message) for failure in failures.values()]


def one_worker_stops(rank: int, group: Group) -> Any:
    asked = iter(range(100))
    with pytest.raises(Stopped) as caught:
        trained(spec(), group=group, should_stop=lambda: rank == 1 and next(asked) == 3)
    return str(caught.value)


def one_worker_leaves(rank: int, group: Group) -> Any:
    if rank == 1:
        dist.destroy_process_group()
        return "left"
    try:
        trained(spec(), group=group)
    except GroupBroken:
        return "broken"
    return "finished"


def all_of_it(rank: int, url: str) -> dict[str, Any]:
    group = current_group()
    return {
        "nan": one_worker_has_nan(rank, group),
        "fail": one_worker_fails(rank, group, url),
        "stop": one_worker_stops(rank, group),
        "bytes": [group.from_first(data if rank == 0 else b"mine") for data in (b"abc", b"", None)],
        "leave": one_worker_leaves(rank, group),
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("group")
    store = open_store(folder / "store")
    cell(store, task())  # makes the inputs once
    return run_workers(2, all_of_it, folder, str(folder / "store"), timeout_s=120.0)


def test_nan_on_one_worker_skips_the_step_on_all(answers: list[dict[str, Any]]) -> None:
    (skipped, loss, first), (other_skipped, other_loss, second) = (answer["nan"] for answer in answers)
    assert skipped == other_skipped == 1
    assert loss == other_loss
    assert all((first[name] == second[name]).all() for name in first)


def test_an_exception_on_one_worker_fails_the_cell_on_all_and_the_next_cell_runs(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["fail"] == answers[1]["fail"] == [("ValueError", "planted on one worker")]


def test_a_stop_on_one_worker_stops_all_after_the_same_step(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["stop"] == answers[1]["stop"]
    assert "after step 4 of 12" in answers[0]["stop"]


def test_rank_0_decides_what_all_read(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["bytes"] == answers[1]["bytes"] == [b"abc", b"", None]


def test_a_lost_worker_breaks_the_group_and_is_no_failure_of_the_cell(answers: list[dict[str, Any]]) -> None:
    assert [answer["leave"] for answer in answers] == ["broken", "left"]
