"""Records on a real MLflow sqlite file: created once, found again, never lost, never twice."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import FolderDocuments, ResultRecord, Tracker, TrackingReport, TrainRecord, experiment_link, sync
from pipeline.tracking.records import Record

COLUMNS = ("fd", "nll_bpd", "baseline")


def row(number: int, fd: float = 1.0, **more: Any) -> ResultRecord:
    return ResultRecord(f"{number:064d}", f"ddpm/{number}", {"baseline": "ddpm", "steps": number}, {"fd": fd}, **more)


def shown(
    uri: str, folder: Path, records: Iterable[Record], rows: Iterable[Mapping[str, object]] = ()
) -> TrackingReport:
    tracker = Tracker(uri, "grid", documents=folder, columns=COLUMNS, primary="fd")
    for record in records:
        tracker.put(record)
    return tracker.finish(rows, 60.0)


def not_now() -> NoReturn:
    raise ConnectionError("nobody should ask the server")


def runs(uri: str, name: str = "grid") -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def contents(uri: str) -> list[tuple[Any, ...]]:
    """All that a reader sees of the runs, without ids and times."""
    found = [
        (run.info.run_name, run.info.status, run.data.params, run.data.metrics, run.data.tags) for run in runs(uri)
    ]
    client = MlflowClient(uri)
    lengths = [len(client.get_metric_history(run.info.run_id, key)) for run in runs(uri) for key in run.data.metrics]
    return [*sorted(found, key=str), tuple(sorted(lengths))]


def test_row_becomes_one_finished_run(tracking_uri: str, tmp_path: Path) -> None:
    report = shown(tracking_uri, tmp_path, [row(7, fd=2.5, tags={"status": "done"}, artifacts={"a.txt": b"hello"})])
    (run,) = runs(tracking_uri)
    assert report == TrackingReport(1, 0, experiment_link(FolderDocuments(tmp_path)), None, report.open_with)
    assert (run.info.run_name, run.info.status) == ("ddpm/7", "FINISHED")
    assert run.data.params == {"baseline": "ddpm", "steps": "7"}
    assert run.data.metrics == {"fd": 2.5}
    assert {key: run.data.tags[key] for key in ("kind", "fingerprint", "grid", "status")} == {
        "kind": "result",
        "fingerprint": f"{7:064d}",
        "grid": "grid",
        "status": "done",
    }
    assert (tmp_path / "tracking" / "mlflow-artifacts" / run.info.run_id / "artifacts" / "a.txt").read_text() == "hello"


def test_second_command_shows_nothing_and_does_not_ask_the_server(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shown(tracking_uri, tmp_path, [row(1), row(2)], [{"run": "ddpm/1", "fd": 1.0}])
    monkeypatch.setattr("pipeline.tracking.uploader.connected", lambda target: not_now())
    second = shown(tracking_uri, tmp_path, [row(1), row(2)], [{"run": "ddpm/1", "fd": 1.0}])
    assert (second.sent, second.warning, second.link) == (0, None, first.link)


def test_replay_from_an_empty_folder_changes_nothing(tracking_uri: str, tmp_path: Path) -> None:
    training = TrainRecord("t" * 64, "ddpm", {"lr": 2e-4}, {"loss": [(1, 3.0), (2, 2.0)]})
    records = [row(1), row(2, artifacts={"a.txt": b"x"}), training]
    shown(tracking_uri, tmp_path / "one", records)
    before = contents(tracking_uri)
    report = shown(tracking_uri, tmp_path / "two", records)
    assert (report.sent, contents(tracking_uri)) == (0, before)


def test_interrupted_upload_goes_on_where_it_stopped(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainRecord("t" * 64, "ddpm", {"lr": 2e-4}, {"loss": [(step, 1.0 / step) for step in range(1, 9)]})
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_terminated", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
        report = shown(tracking_uri, tmp_path, [training])
        assert "gone" in (report.warning or "")
    assert shown(tracking_uri, tmp_path, []).sent == 1  # from the outbox alone
    (run,) = runs(tracking_uri)
    assert run.info.status == "FINISHED"
    assert len(MlflowClient(tracking_uri).get_metric_history(run.info.run_id, "train/loss")) == 8


def test_curve_longer_than_one_request_is_whole(tracking_uri: str, tmp_path: Path) -> None:
    shown(tracking_uri, tmp_path, [TrainRecord("t" * 64, "x", {}, {"loss": [(i, float(i)) for i in range(2500)]})])
    (run,) = runs(tracking_uri)
    history = MlflowClient(tracking_uri).get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(2500))


def test_live_points_and_final_record_share_one_run(tracking_uri: str, tmp_path: Path) -> None:
    tracker = Tracker(tracking_uri, "grid", documents=tmp_path, columns=COLUMNS, primary="fd")
    tracker.progress("t" * 64, {"loss": 3.0}, 1, run_name="ddpm")
    tracker.finish()
    (live,) = runs(tracking_uri)
    assert (live.info.status, live.data.metrics) == ("RUNNING", {"train/loss": 3.0})
    shown(tracking_uri, tmp_path, [TrainRecord("t" * 64, "ddpm", {"lr": 1}, {"loss": [(1, 3.0), (2, 2.0)]})])
    (final,) = runs(tracking_uri)
    assert (final.info.run_id, final.info.status) == (live.info.run_id, "FINISHED")
    assert len(MlflowClient(tracking_uri).get_metric_history(final.info.run_id, "train/loss")) == 2


def test_corrected_row_updates_its_run(tracking_uri: str, tmp_path: Path) -> None:
    shown(tracking_uri, tmp_path, [row(1, fd=2.0)])
    shown(tracking_uri, tmp_path, [row(1, fd=1.5)])
    (run,) = runs(tracking_uri)
    assert run.data.metrics["fd"] == 1.5


def test_changed_parameter_is_named_and_does_not_fail(tracking_uri: str, tmp_path: Path) -> None:
    shown(tracking_uri, tmp_path, [ResultRecord("a" * 64, "x", {"lr": 1}, {})])
    report = shown(tracking_uri, tmp_path, [ResultRecord("a" * 64, "x", {"lr": 2, "steps": 3}, {})])
    (run,) = runs(tracking_uri)
    assert report.warning is None
    assert run.data.params == {"lr": "1", "steps": "3"}
    assert run.data.tags["changed.lr"] == "2"


def test_failed_cell_is_a_failed_run(tracking_uri: str, tmp_path: Path) -> None:
    shown(tracking_uri, tmp_path, [row(1, tags={"status": "failed", "error": "out of memory"})])
    assert runs(tracking_uri)[0].info.status == "FAILED"


def test_hostile_names_and_long_texts_are_made_to_fit(tracking_uri: str, tmp_path: Path) -> None:
    record = ResultRecord("a" * 64, "x", {"betas": "0.1, " * 4000, "a=b;c'": 1}, {"fd(π)": 1.0}, {"error": "e" * 9000})
    assert shown(tracking_uri, tmp_path, [record]).warning is None
    (run,) = runs(tracking_uri)
    assert set(run.data.params) == {"betas", "a_b_c_"}


def test_refused_record_does_not_hold_up_the_others(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.runs.safe_name", lambda name: name)
    bad = ResultRecord("b" * 64, "bad", {"a;b'": 1}, {})
    report = shown(tracking_uri, tmp_path, [bad, row(1)])
    assert "refused 1 records" in (report.warning or "")
    assert ("ddpm/1", "FINISHED") in [(run.info.run_name, run.info.status) for run in runs(tracking_uri)]


def test_twin_left_by_a_lost_reply_is_removed(tracking_uri: str, tmp_path: Path) -> None:
    shown(tracking_uri, tmp_path / "one", [row(1)])
    (run,) = runs(tracking_uri)
    client = MlflowClient(tracking_uri)
    client.create_run(run.info.experiment_id, tags={"kind": "result", "fingerprint": f"{1:064d}"}, run_name="twin")
    shown(tracking_uri, tmp_path / "two", [row(1), row(2)])
    assert sorted(run.info.run_name for run in runs(tracking_uri)) == ["ddpm/1", "ddpm/2"]


def test_sync_fills_a_new_database_and_twice_is_the_same(tracking_uri: str, tmp_path: Path) -> None:
    records = [row(number, fd=float(number)) for number in range(3)]
    arguments: dict[str, Any] = {"records": records, "documents": tmp_path, "columns": COLUMNS, "primary": "fd"}
    assert sync(tracking_uri, "grid", **arguments).sent == 3
    before = contents(tracking_uri)
    assert sync(tracking_uri, "grid", **arguments).sent == 0
    assert contents(tracking_uri) == before


def test_put_returns_at_once_and_loads_nothing(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr("pipeline.tracking.uploader.connected", lambda target: release.wait(20) and not_now())
    tracker = Tracker(tracking_uri, "grid", documents=tmp_path, columns=COLUMNS, primary="fd")
    start = time.perf_counter()
    for number in range(30):
        tracker.put(row(number))
        tracker.progress("t" * 64, {"loss": 1.0}, number)
    assert time.perf_counter() - start < 1.0
    report = tracker.finish(timeout_s=0.1)
    release.set()
    assert (report.sent, report.pending) == (0, 30)
    monkeypatch.undo()
    assert shown(tracking_uri, tmp_path, []).sent == 30


def test_page_has_view_and_note(tracking_uri: str, tmp_path: Path) -> None:
    report = shown(tracking_uri, tmp_path, [row(1)], [{"run": "ddpm/1", "fd": 1.0}])
    experiment = MlflowClient(tracking_uri).get_experiment_by_name("grid")
    assert report.link is not None
    assert experiment is not None
    assert f"/experiments/{experiment.experiment_id}/runs?viewStateShareKey=results" in report.link
    assert (
        '"metrics.`fd`", "params.`nll_bpd`", "params.`baseline`"' in experiment.tags["mlflow.sharedViewState.results"]
    )
    assert "| ddpm/1 | 1 |" in experiment.tags["mlflow.note.content"]


def test_interrupted_command_leaves_the_note_alone(tracking_uri: str, tmp_path: Path) -> None:
    shown(tracking_uri, tmp_path, [row(1)], [{"run": "ddpm/1", "fd": 1.0}])
    shown(tracking_uri, tmp_path, [row(1), row(2)])
    experiment = MlflowClient(tracking_uri).get_experiment_by_name("grid")
    assert experiment is not None
    assert "| ddpm/1 | 1 |" in experiment.tags["mlflow.note.content"]


def test_no_tracking_is_a_quiet_tracker(tmp_path: Path) -> None:
    tracker = Tracker(None, "grid", documents=tmp_path, columns=COLUMNS, primary="fd")
    tracker.put(row(1))
    assert tracker.finish() == TrackingReport(0, 0, None, None)
    assert list(tmp_path.iterdir()) == []


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
