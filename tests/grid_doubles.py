"""The command line inside the test process, and a stand-in for Ray that runs one task after another."""

import logging
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.grid.schedule import Outcome
from pipeline.grid.tasks import Task, execute
from pipeline.store import Store
from pipeline.train.outcome import Failure

LOG = "WARNING pipeline."


@dataclass(frozen=True)
class Called:
    """Exit code, and what was printed where."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The only line on stderr, apart from log lines about tries that are repeated."""
        assert "Traceback" not in self.out + self.err
        (line,) = [line for line in self.err.splitlines() if not line.startswith(LOG)]
        return line


class LocalExecutor:
    """Runs each task in this process when its outcome is asked for."""

    total_units = 1

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Task] = []
        self.is_closed = False

    @property
    def free_units(self) -> int:
        return self.total_units - len(self._waiting)

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def submit_group(self, tasks: list[Task], *, workers: int) -> None:
        assert workers == 1
        self._waiting.extend(tasks)

    def poll(self, timeout_s: float) -> list[Outcome]:
        tasks, self._waiting = self._waiting, []
        return [self._outcome(task) for task in tasks]

    def _outcome(self, task: Task) -> Outcome:
        try:
            execute(task, self._store)
        except Exception as error:  # the boundary of a cell, as in a worker
            return Outcome(task.key, Failure.of(error))
        return Outcome(task.key)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class CommandLine:
    """Calls `pipeline.cli.main`; `executors` holds one entry for each time that Ray would have been started."""

    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    executors: list[LocalExecutor] = field(default_factory=list[LocalExecutor])

    def __post_init__(self) -> None:
        stand_in: Any = ModuleType("pipeline.grid.ray")
        stand_in.start_ray = lambda address, num_cpus: None
        stand_in.RayExecutor = self._executor
        self.monkeypatch.setitem(sys.modules, "pipeline.grid.ray", stand_in)

    def _executor(self, store: Store, **_: Any) -> LocalExecutor:
        self.executors.append(LocalExecutor(store))
        return self.executors[-1]

    def __call__(self, *arguments: str) -> Called:
        """Run one command to its exit; log lines go to stderr as they do for a user."""
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        root.handlers.clear()
        self.monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
        self.capture.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        return Called(code, *self.capture.readouterr())
