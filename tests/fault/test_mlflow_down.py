"""A tracking server that refuses, hangs, fails or forgets: work never waits, nothing is lost, twice is the same."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking import ResultRecord, Tracker, TrackingReport, TrainRecord, sync
from pipeline.tracking.records import Record
from pipeline.tracking.server import ENVIRONMENT
from tests.mlflow_server import MlflowServer
from tests.processes import free_port, wait_until

RECORDS: list[Record] = [
    *(ResultRecord(f"{n:064d}", f"row {n}", {"n": n}, {"fd": float(n)}, artifacts={"a.txt": b"x"}) for n in range(5)),
    TrainRecord("t" * 64, "training", {"lr": 1e-3}, {"loss": [(step, 1.0 / (step + 1)) for step in range(20)]}),
]


class SickServer:
    """Takes connections and then hangs, or answers every request with one status."""

    def __init__(self, status: int | None) -> None:
        self.recovered = threading.Event()
        recovered = self.recovered

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                if status is None:
                    recovered.wait(30)
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        for method in ("GET", "POST"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.recovered.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(params=["refuses", "hangs", "fails", "forbids"])
def sick_uri(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server that is not well; the client's timeout is shortened from 5 s to 1 s."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # so that the test's end restores the environment
    monkeypatch.setitem(ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    if request.param == "refuses":
        yield f"http://127.0.0.1:{free_port()}"
        return
    server = SickServer({"hangs": None, "fails": 500, "forbids": 403}[request.param])
    try:
        yield server.uri
    finally:
        server.stop()


def tracker_of(uri: str, folder: Path, *, name: str = "grid") -> Tracker:
    return Tracker(uri, name, documents=folder, columns=("fd", "n"), primary="fd")


def sync_of(uri: str, folder: Path, records: list[Record], *, name: str = "grid") -> TrackingReport:
    return sync(uri, name, records=records, documents=folder, columns=("fd", "n"), primary="fd")


def rows(uri: str, name: str = "grid") -> dict[str, tuple[str, dict[str, float], int]]:
    """Run name -> status, metrics, and the number of points of its first metric."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    found = [] if experiment is None else client.search_runs([experiment.experiment_id])
    points = {run.info.run_id: len(client.get_metric_history(run.info.run_id, min(run.data.metrics))) for run in found}
    return {str(run.info.run_name): (run.info.status, dict(run.data.metrics), points[run.info.run_id]) for run in found}


def test_sick_server_costs_one_warning_and_no_time(sick_uri: str, tracking_uri: str, tmp_path: Path) -> None:
    tracker = tracker_of(sick_uri, tmp_path)
    slowest_s = 0.0
    for record in RECORDS:
        for step in range(100):
            start = time.perf_counter()
            tracker.progress("t" * 64, {"loss": 1.0}, step)
            tracker.put(record)
            slowest_s = max(slowest_s, time.perf_counter() - start)
    start = time.perf_counter()
    report = tracker.finish(timeout_s=10.0)
    assert slowest_s < 1.0
    assert time.perf_counter() - start < 12.0
    assert (report.sent, report.pending) == (0, len(RECORDS))
    assert report.warning is not None
    assert "6 records are kept in the outbox" in report.warning
    assert sync_of(tracking_uri, tmp_path, []).sent == len(RECORDS)  # from the outbox alone, to a server that works
    assert len(rows(tracking_uri)) == len(RECORDS)
    assert not list((tmp_path / "outbox").iterdir())


def test_store_that_cannot_be_written_costs_the_outbox_only(tracking_uri: str, tmp_path: Path) -> None:
    (tmp_path / "grid").write_text("a file where the folder should be")
    tracker = tracker_of(tracking_uri, tmp_path / "grid")
    tracker.put(RECORDS[0])
    report = tracker.finish(timeout_s=5.0)
    assert report.pending == 1
    assert "1 could not be written there" in (report.warning or "")


@pytest.mark.slow
def test_server_that_comes_back_gets_everything_once(mlflow_template: Path, tmp_path: Path) -> None:
    server = MlflowServer(tmp_path / "server", mlflow_template)
    try:
        tracker = tracker_of(server.uri, tmp_path / "grid")
        for record in RECORDS:
            tracker.put(record)
        assert tracker.finish().pending == len(RECORDS)
        server.start()
        again = tracker_of(server.uri, tmp_path / "grid")  # the same command again
        for record in RECORDS:
            again.put(record)
        report = again.finish()
        assert (report.sent, report.pending, report.warning) == (len(RECORDS), 0, None)
        before = rows(server.uri)
        assert before["training"][2] == 20
        assert sync_of(server.uri, tmp_path / "grid", RECORDS).sent == 0
        assert rows(server.uri) == before
    finally:
        server.stop()


@pytest.mark.slow
def test_server_that_restarts_empty_is_filled_again(mlflow_template: Path, tmp_path: Path) -> None:
    server = MlflowServer(tmp_path / "server", mlflow_template)
    try:
        server.start()
        tracker = tracker_of(server.uri, tmp_path / "grid")
        for record in RECORDS[:-1]:
            tracker.put(record)
        wait_until(lambda: tracker.link is not None, timeout_s=30, what="first answer")
        server.stop()
        server.empty()
        server.start()
        tracker.put(RECORDS[-1])
        report = tracker.finish()
        assert (report.pending, report.warning) == (0, None)
        before = rows(server.uri)
        assert set(before) == {record.run_name for record in RECORDS}
        assert sync_of(server.uri, tmp_path / "grid", RECORDS).sent == 0
        assert rows(server.uri) == before
    finally:
        server.stop()
