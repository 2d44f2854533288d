"""Batches in the outbox: whole or absent, in order, readable by a later process."""

import logging
from pathlib import Path

import pytest

from pipeline.tracking import FolderDocuments, ResultRecord
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.progress import ProgressQueue


def record(number: int) -> ResultRecord:
    return ResultRecord(f"{number:064d}", f"row {number}", {}, {"fd": float(number)})


def test_batches_are_found_in_order_by_another_process(tmp_path: Path) -> None:
    outbox = Outbox(FolderDocuments(tmp_path))
    names = [outbox.append([record(0), record(1)]), outbox.append([record(2)])]
    found = Outbox(FolderDocuments(tmp_path)).batches()
    assert list(found) == names
    assert [len(batch) for batch in found.values()] == [2, 1]


def test_confirmed_batch_is_gone(tmp_path: Path) -> None:
    outbox = Outbox(FolderDocuments(tmp_path))
    kept, sent = outbox.append([record(0)]), outbox.append([record(1)])
    outbox.confirm(sent)
    assert list(outbox.batches()) == [kept]


@pytest.mark.parametrize("junk", [b'{"kind": "result"}', b"{", b"[]", b"\xff\xfe", b"17"])
def test_unreadable_line_is_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, junk: bytes
) -> None:
    documents = FolderDocuments(tmp_path)
    name = Outbox(documents).append([record(0)])
    documents.put(name, junk + b"\n" + (documents.get(name) or b""))
    with caplog.at_level(logging.WARNING):
        assert Outbox(documents).batches() == {name: [record(0)]}
    assert "line=1 unreadable" in caplog.text


def test_file_is_on_disk_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(handle))
    Outbox(FolderDocuments(tmp_path)).append([record(0), record(1)])
    assert len(synced) == 2  # once for the batch, once for its directory


def test_full_progress_queue_keeps_the_newest_point() -> None:
    queue = ProgressQueue(max_steps=10)
    for step in range(1000):
        queue.put("f", {"loss": 1.0 / (step + 1)}, step=step, run_name=None)
    points = queue.taken()["f"]
    assert len(points) <= 10
    assert points[999] == {"train/loss": 1e-3}


def test_points_that_could_not_be_sent_do_not_replace_newer_ones() -> None:
    queue = ProgressQueue()
    queue.put("f", {"loss": 2.0}, step=1, run_name=None)
    old = queue.taken()
    queue.put("f", {"loss": 1.0}, step=1, run_name=None)
    queue.put_back({**old, "g": {3: {"train/loss": 4.0}}})
    assert queue.taken() == {"f": {1: {"train/loss": 1.0}}, "g": {3: {"train/loss": 4.0}}}
