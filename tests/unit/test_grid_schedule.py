"""The driver's bookkeeping: order, retries, blocking, and stopping on a bug that is common to all."""

import pytest

from pipeline.grid.schedule import MAX_LOST, Outcome, Schedule, State, balanced
from pipeline.grid.tasks import Task
from pipeline.ingest.statistics import StatisticsSpec
from pipeline.store import Key
from pipeline.train.outcome import Failure
from tests.unit.test_grid_plan import plan_of


def _schedule() -> tuple[Schedule, dict[str, list[Task]]]:
    plan = plan_of()
    by_stage: dict[str, list[Task]] = {}
    for task in plan.tasks.values():
        by_stage.setdefault(task.stage, []).append(task)
    return Schedule(plan.tasks), by_stage


def _finish(schedule: Schedule, tasks: list[Task]) -> None:
    schedule.start(tasks)
    for task in tasks:
        schedule.settle(Outcome(task.key))


def _fail(schedule: Schedule, task: Task, message: str, *, kind: str = "RuntimeError", is_lost: bool = False) -> State:
    schedule.start([task])
    return schedule.settle(Outcome(task.key, Failure(kind, message, is_lost=is_lost)))


def test_tasks_become_ready_when_their_inputs_exist() -> None:
    schedule, by_stage = _schedule()
    assert {task.stage for task in schedule.ready()} == {"ingest"}
    _finish(schedule, by_stage["ingest"])
    assert {task.stage for task in schedule.ready()} == {"statistics"}
    _finish(schedule, by_stage["statistics"])
    assert {task.stage for task in schedule.ready()} == {"train", "sample", "likelihood"}


def test_work_nearest_to_a_result_comes_first() -> None:
    schedule, by_stage = _schedule()
    _finish(schedule, by_stage["ingest"] + by_stage["statistics"])
    stages = [task.stage for task in schedule.ready()]
    assert stages == sorted(stages, key=["likelihood", "sample", "train"].index)


def test_the_same_failure_twice_is_final_and_blocks_what_depends_on_it() -> None:
    schedule, by_stage = _schedule()
    _finish(schedule, by_stage["ingest"] + by_stage["statistics"])
    task = by_stage["train"][1]
    assert _fail(schedule, task, "boom") is State.WAITING
    assert _fail(schedule, task, "boom") is State.FAILED
    blocked = [key for key, state in schedule.states.items() if state is State.BLOCKED]
    assert {schedule.tasks[key].stage for key in blocked} == {"sample", "features", "likelihood", "result"}
    assert not schedule.is_finished


def test_different_failures_are_tried_again_twice() -> None:
    schedule, by_stage = _schedule()
    task = by_stage["ingest"][0]
    states = [_fail(schedule, task, f"boom {n}") for n in range(3)]
    assert states == [State.WAITING, State.WAITING, State.FAILED]


@pytest.mark.parametrize("kind", ["ConfigError", "DataError", "Diverged", "StoreError"])
def test_what_another_attempt_cannot_cure_is_final_at_once(kind: str) -> None:
    schedule, by_stage = _schedule()
    assert _fail(schedule, by_stage["ingest"][0], "no", kind=kind) is State.FAILED


def test_a_lost_worker_is_no_fault_of_the_task() -> None:
    schedule, by_stage = _schedule()
    task = by_stage["ingest"][0]
    states = [_fail(schedule, task, "died", is_lost=True) for _ in range(MAX_LOST + 1)]
    assert states == [State.WAITING] * MAX_LOST + [State.FAILED]


def test_a_bug_common_to_all_cells_stops_the_grid() -> None:
    schedule, by_stage = _schedule()
    _finish(schedule, by_stage["ingest"] + by_stage["statistics"])
    for task in by_stage["train"][:3]:
        _fail(schedule, task, "same bug")
        _fail(schedule, task, "same bug")
    assert schedule.stopped is not None
    assert "same bug" in schedule.stopped
    assert schedule.ready() == []
    assert schedule.is_finished


def test_failures_after_a_success_do_not_stop_the_grid() -> None:
    schedule, by_stage = _schedule()
    _finish(schedule, by_stage["ingest"] + by_stage["statistics"] + by_stage["train"][:1])
    for task in by_stage["train"][1:]:
        _fail(schedule, task, "same bug")
        _fail(schedule, task, "same bug")
    assert schedule.stopped is None


def test_groups_are_balanced_largest_first() -> None:
    inputs = {"dataset": Key("ingest", "0" * 64)}
    tasks = [Task("statistics", StatisticsSpec(covariance_limit=w), inputs, weight=w) for w in (5, 4, 3, 2, 2)]
    groups = balanced(tasks, 2)
    assert sorted(sum(task.weight for task in group) for group in groups) == [7, 9]
    assert len(balanced(tasks[:1], 4)) == 1
