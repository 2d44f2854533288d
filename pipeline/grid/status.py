"""Progress of a grid as a document of the store and as lines for people."""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.grid.schedule import Outcome, Schedule, State, signature
from pipeline.store import Documents, Key, Store
from pipeline.train.status import read_status

WRITE_EVERY_S = 2.0


def grid_documents(store: Store, grid: str) -> Documents:
    """The grid's documents in the store: plan, progress, outbox."""
    return store.documents(f"grids/{grid}")


def lease_name(grid: str) -> str:
    """The lease that a driver of this grid holds."""
    return f"grids/{grid}"


def driver_name() -> str:
    """What others are told of this driver: its host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass
class StatusWriter:
    """Counts, rates and remaining time per stage, written at most every `WRITE_EVERY_S` seconds."""

    store: Store
    grid: str
    started: float = field(default_factory=time.monotonic)
    _written: float = -1e9
    _first_done: dict[str, float] = field(default_factory=dict[str, float])

    def snapshot(self, schedule: Schedule, trainings: Mapping[Key, dict[str, Any]]) -> dict[str, Any]:
        """State of every stage; `trainings` are the running trainings' own reports."""
        elapsed = time.monotonic() - self.started
        stages: dict[str, Any] = {}
        for stage, counts in schedule.counts().items():
            total, done = sum(counts.values()), counts.get(State.DONE.value, 0)
            entry: dict[str, Any] = {"total": total, **counts}
            progress = float(done)
            if stage == "train":
                progress += sum(report.get("step", 0) / max(report.get("steps", 1), 1) for report in trainings.values())
                entry["images_per_s"] = round(
                    sum(report.get("images_per_s") or 0.0 for report in trainings.values()), 1
                )
            active = counts.get(State.RUNNING.value, 0) > 0
            if active or done:
                begun = self._first_done.setdefault(stage, elapsed)
                spent = elapsed - begun
                remaining = total - progress - counts.get(State.FAILED.value, 0) - counts.get(State.BLOCKED.value, 0)
                if spent > 1.0 and progress > 0:
                    entry["per_s"] = round(progress / spent, 4)
                    entry["remaining_s"] = round(max(remaining, 0.0) * spent / progress, 1)
            entry["progress"] = round(progress, 3)
            stages[stage] = entry
        failures = [
            {"task": schedule.tasks[key].label, "stage": schedule.tasks[key].stage, "reason": signature(failure)}
            for key, failure in schedule.failures.items()
            if schedule.states[key] is State.FAILED
        ]
        running = [task.label for key, task in schedule.tasks.items() if schedule.states[key] is State.RUNNING]
        return {
            "driver": driver_name(),
            "elapsed_s": round(elapsed, 1),
            "stages": stages,
            "running": running[:50],
            "failures": failures,
        }

    def write(self, snapshot: dict[str, Any], *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._written >= WRITE_EVERY_S:
            self._written = now
            grid_documents(self.store, self.grid).put("status.json", json.dumps(snapshot, indent=1).encode())


@dataclass
class Timings:
    """Seconds that each task ran, as a document of the grid: measured by a clock, so no part of any artifact."""

    store: Store
    grid: str
    _seconds: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, outcome: Outcome) -> None:
        """Remember how long a task ran; saved before a result is reported, so that its record can say so."""
        if outcome.seconds > 0:
            self._seconds[str(outcome.key)] = round(outcome.seconds, 3)
        if outcome.key.stage == "result":
            self.save()

    def save(self) -> None:
        """Write what is new over what earlier runs wrote."""
        if self._seconds:
            known = task_seconds(self.store, self.grid)
            text = json.dumps({**known, **self._seconds}, indent=0, sort_keys=True)
            grid_documents(self.store, self.grid).put("timings.json", text.encode())
            self._seconds = {}


def task_seconds(store: Store, grid: str) -> dict[str, float]:
    """Seconds that tasks ran, by `stage/fingerprint`; empty for a grid that never ran here."""
    content = grid_documents(store, grid).get("timings.json")
    return {} if content is None else json.loads(content)


def training_reports(store: Store, grid: str, keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
    """The newest reports that running trainings wrote themselves."""
    documents = grid_documents(store, grid)
    reports = {key: read_status(documents, key) for key in keys}
    return {key: report for key, report in reports.items() if report is not None}


def summary_line(snapshot: dict[str, Any], *, is_over: bool = False) -> str:
    """One line: done/total per stage, rates, and the time that is left unless the run is over."""
    parts: list[str] = []
    for stage, entry in snapshot["stages"].items():
        part = f"{stage} {entry.get('done', 0)}/{entry['total']}"
        if stage == "train" and entry.get("progress", 0) > entry.get("done", 0):
            part = f"train {entry['progress']:.1f}/{entry['total']} ({entry.get('images_per_s', 0):,.0f} img/s)"
        if entry.get("failed"):
            part += f" ({entry['failed']} failed)"
        parts.append(part)
    left = max((entry.get("remaining_s", 0.0) for entry in snapshot["stages"].values()), default=0.0)
    tail = f" | about {left:.0f} s for the running stages" if left >= 1 and not is_over else ""
    return f"[{snapshot['elapsed_s']:6.0f} s] " + ", ".join(parts) + tail
