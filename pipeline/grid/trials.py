"""What became of the trials of `tune`: one document per trial, written by the process that evaluates the point."""

import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pipeline.grid.status import grid_documents
from pipeline.store import Documents, Store

State = Literal["running", "done", "failed"]
FOLDER = "trials"
WRITE_EVERY_S = 1.0


@dataclass(frozen=True)
class TrialRecord:
    """State of one trial.

    Attributes:
        point: what it evaluates.
        rung: from 1.
        state: as its process last wrote it; a process that was killed leaves `running`.
        starts: how often it began with work to do; 1 unless a worker or driver died in the middle, or results
            were removed.
        finished: how often it came to its end after work.
        tasks: of the sitting, done and in all.
        seconds: that each task took, by `stage/fingerprint`, over all sittings.
        host: where it ran last.
        kind: exception class of the failure.
        reason: first line of the failure, with its class.
    """

    point: str
    rung: int
    state: State = "running"
    starts: int = 0
    finished: int = 0
    tasks: tuple[int, int] = (0, 0)
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    host: str = ""
    kind: str = ""
    reason: str = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds of work."""
        return sum(self.seconds.values())


class TrialLog:
    """The trial documents of a grid. One writer per trial at a time; everybody may read."""

    def __init__(self, store: Store, grid: str) -> None:
        self._documents: Documents = grid_documents(store, grid)
        self._written = -1e9

    def read(self, rung: int, point: str) -> TrialRecord:
        """The record of a trial; an empty one if it never began."""
        content = self._documents.get(_name(rung, point))
        return TrialRecord(point, rung) if content is None else _decoded(content)

    def all(self) -> Iterator[TrialRecord]:
        """Every record, by rung and name."""
        for name in self._documents.list(f"{FOLDER}/"):
            content = self._documents.get(name)
            if content is not None:
                yield _decoded(content)

    def started(self, record: TrialRecord, num_tasks: int) -> TrialRecord:
        """A sitting begins, with work to do."""
        return self._put(
            replace(
                record,
                state="running",
                starts=record.starts + 1,
                tasks=(0, num_tasks),
                host=socket.gethostname(),
            )
        )

    def task_done(self, record: TrialRecord, key: str, seconds: float) -> TrialRecord:
        """One task more; written at most every second, since the next one follows soon."""
        done, total = record.tasks
        record = replace(record, tasks=(done + 1, total), seconds={**record.seconds, key: round(seconds, 3)})
        now = time.monotonic()
        return self._put(record) if now - self._written >= WRITE_EVERY_S else record

    def done(self, record: TrialRecord) -> TrialRecord:
        """The point is evaluated."""
        return self._put(replace(record, state="done", finished=record.finished + 1, kind="", reason=""))

    def failed(self, record: TrialRecord, kind: str, reason: str) -> TrialRecord:
        """The sitting ended with an error."""
        return self._put(replace(record, state="failed", kind=kind, reason=reason))

    def _put(self, record: TrialRecord) -> TrialRecord:
        self._written = time.monotonic()
        self._documents.put(_name(record.rung, record.point), json.dumps(asdict(record), indent=1).encode())
        return record


def _name(rung: int, point: str) -> str:
    """A document name: readable, and unique by a few digits of the whole name."""
    readable = re.sub(r"[^a-z0-9._-]+", "-", point.lower()).strip("-.")[:46]
    return f"{FOLDER}/{rung}/{readable}-{hashlib.sha256(point.encode()).hexdigest()[:8]}.json"


def _decoded(content: bytes) -> TrialRecord:
    tree: dict[str, Any] = json.loads(content)
    tree["tasks"] = tuple(tree["tasks"])
    return TrialRecord(**tree)


def trial_lines(store: Store, grid: str, *, is_over: bool) -> Iterator[str]:
    """Per rung how many trials are in which state, then how far the unfinished ones are.

    Args:
        is_over: no driver is at work: what its trials last called running is interrupted.
    """
    rungs: dict[int, list[TrialRecord]] = {}
    for record in TrialLog(store, grid).all():
        rungs.setdefault(record.rung, []).append(record)
    words: dict[State, str] = {"done": "done", "running": "interrupted" if is_over else "running", "failed": "failed"}
    for rung, records in sorted(rungs.items()):
        counts = [f"{sum(record.state == state for record in records)} {word}" for state, word in words.items()]
        yield f"trials of rung {rung}: {', '.join(counts)}"
        for record in records:
            if record.state == "running":
                done, total = record.tasks
                yield f"  {words['running']}: {record.point}: {done} of {total} tasks"
            if record.state == "failed":
                yield f"  failed: {record.point}: {record.reason}"
