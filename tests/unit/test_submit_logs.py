"""What is copied of a host's logs: which files, how much of them, and no secret."""

import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from pipeline.grid import submit_logs
from pipeline.grid.submit_logs import archive, chosen, document_name, event_lines, one_per_host, secret_values, tail
from pipeline.store.names import checked_name


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Ray's log folder in small."""
    root = tmp_path / "logs"
    (root / "events").mkdir(parents=True)
    (root / "old").mkdir()
    for name in ("job-driver-x.log", "worker-1-01000000-2.out", "raylet.err", "nsight.log", "events/event_GCS.log"):
        (root / name).write_text(f'{{"file": "{name}"}}\nno json\n')
    os.utime(root / "raylet.err", (time.time() - 10_000, time.time() - 10_000))
    (root / "worker-link.out").symlink_to("/etc/hostname")
    return root


def names(content: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return set(tar.getnames())


def test_logs_of_the_run_are_kept_and_nothing_behind_a_link(logs: Path) -> None:
    content, count = archive(logs, chosen(logs, oldest_s=100.0), [])
    assert names(content) == {"job-driver-x.log", "worker-1-01000000-2.out", "events/event_GCS.log"}
    assert count == 3
    assert "raylet.err" in names(archive(logs, chosen(logs, None), [])[0])


def test_the_end_of_a_long_file_is_kept_and_the_cut_is_said(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (logs / "raylet.out").write_bytes(b"a" * 1000 + b"the end")
    assert tail(logs / "raylet.out", 10) == b"[997 earlier bytes are left out]\naaathe end"
    monkeypatch.setattr(submit_logs, "MAX_HOST_BYTES", 60)
    content, count = archive(logs, chosen(logs, None), [])
    assert count == len(names(content)) < 4, "a host's share is limited"


def test_secrets_are_replaced(logs: Path) -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "hidden-value", "RAY_AUTH_TOKEN_PATH": "/run/token", "A_TOKEN": "abc"}
    secrets = secret_values(environment)
    assert secrets == [b"hidden-value"], "a path is no secret, and three letters would tear logs apart"
    (logs / "job-driver-x.log").write_text("key=hidden-value end")
    content, _ = archive(logs, [logs / "job-driver-x.log"], secrets)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        file = tar.extractfile("job-driver-x.log")
        assert file is not None
        assert file.read() == b"key=[redacted] end"
    (logs / "events" / "event_GCS.log").write_text('{"message": "hidden-value"}\n')
    assert event_lines(logs / "events", None, secrets) == '{"message": "[redacted]"}\n'


def test_events_are_lines_of_json(logs: Path, tmp_path: Path) -> None:
    assert event_lines(logs / "events", 100.0, []) == '{"file": "events/event_GCS.log"}\n'
    assert event_lines(tmp_path / "nowhere", None, []) == ""


def test_names_of_hosts_are_names_of_documents() -> None:
    for host in ("node1", "Node_2.Example.COM", "-x-", "", "é"):
        assert checked_name(document_name(host) + ".tar.gz")


def test_ray_nodes_that_share_a_host_are_asked_once() -> None:
    nodes = [{"NodeManagerHostname": host, "NodeManagerAddress": "10.0.0.1"} for host in ("a", "a", "b")]
    assert [node["NodeManagerHostname"] for node in one_per_host(nodes)] == ["a", "b"]
