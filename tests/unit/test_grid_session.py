"""What a command does around a run: scratch folder, cost of a row, order of the note, what status tells."""

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.grid.overview import status_lines
from pipeline.grid.records import finished_rows, result_record
from pipeline.grid.schedule import Schedule
from pipeline.grid.session import note_rows, scratch_folder
from pipeline.grid.status import StatusWriter, driver_name, grid_documents, lease_name
from pipeline.grid.tasks import execute
from pipeline.store import open_store
from pipeline.train.status import status_name
from tests.unit.test_grid_plan import plan_of


def test_a_scratch_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_SCRATCH", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"PIPELINE_SCRATCH: .*nowhere is no folder"):
        scratch_folder()
    monkeypatch.setenv("PIPELINE_SCRATCH", str(tmp_path))
    with scratch_folder() as scratch:
        assert Path(scratch).parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_the_note_names_models_before_control_rows_and_rows_know_their_cost(tmp_path: Path) -> None:
    plan = plan_of(grid=[{"baseline": "test_split"}, {"baseline": "ddpm"}], evaluate={"metrics": ["fd_clf"]})
    store = open_store(tmp_path)
    for task in plan.tasks.values():
        execute(task, store)
    assert [row["cell"] for row in note_rows(plan, store)] == ["ddpm", "test_split"]

    (trained,) = (row for row in finished_rows(plan, store) if row.cell.name == "ddpm")
    documents = grid_documents(store, plan.grid.name)
    blocks = {str(task.key): 4.0 for task in trained.cell.tasks.samples}
    documents.put("timings.json", json.dumps(blocks).encode())
    training = trained.cell.tasks.training
    assert training is not None
    report = {"key": str(training.key), "seconds": 18.0, "workers": 2, "steps": 20, "start_step": 10}
    documents.put(f"status/{training.key.short}.json", json.dumps(report).encode())
    metrics = result_record(plan, trained, store).metrics
    assert metrics["img_per_s"] == 10.0
    assert metrics["train_h"] == pytest.approx(18 * 2 * 2 / 3600), "the first half took as long as the second"


def test_status_says_whether_a_driver_is_at_work(tmp_path: Path) -> None:
    plan = plan_of(grid=[{"baseline": "ddpm"}], evaluate={"metrics": ["fd_clf"]})
    store = open_store(tmp_path)
    schedule = Schedule(plan.tasks)
    running = next(iter(schedule.ready()))
    schedule.start([running])
    writer = StatusWriter(store, plan.grid.name)
    snapshot = writer.snapshot(schedule, {})
    snapshot["stages"]["train"]["remaining_s"] = 60.0
    writer.write(snapshot, force=True)
    training = plan.trainings[0]
    report = {"key": str(training.key), "step": 3, "steps": 10, "images_per_s": 50.0}
    grid_documents(store, plan.grid.name).put(status_name(training.key), json.dumps(report).encode())

    with store.lease(lease_name(plan.grid.name), owner=driver_name()):
        told = "\n".join(status_lines(plan, store))
    assert f"0 of 1 rows finished; driver {driver_name()} is at work\nthis run [" in told
    assert "about 60 s for the running stages" in told
    assert f"  running: {running.label}" in told
    assert f"  {training.label}: step 3/10, 50 images/s" in told

    with store.lease(lease_name(plan.grid.name), owner="another:1"):
        told = "\n".join(status_lines(plan, store))
    assert "driver another:1 is at work\nlast run [" in told
    assert "running" not in told

    told = "\n".join(status_lines(plan, store))
    assert "0 of 1 rows finished; no driver is at work\nlast run [" in told
    assert "running" not in told
    assert f"  {training.label}: step 3/10, stopped" in told
