"""The driver's eye on running trials: progress lines, failures that are common to all, and a signal to stop."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.grid.schedule import SYSTEMATIC
from pipeline.grid.status import StatusWriter
from pipeline.tune.work import FAILED


@dataclass
class Watch:
    """What is known about the trials of one experiment while it runs.

    Attributes:
        title: of the experiment, in progress lines.
        total: number of its trials.
        show: given a snapshot like that of `run`.
        status: writes the snapshot as the grid's document.
        began: called with the trial's id and configuration when it starts.
        stop: set by a signal.
        stopped: why the experiment was ended early, if it was.
    """

    title: str
    total: int
    show: Callable[[dict[str, Any]], None]
    status: StatusWriter
    began: Callable[[str, dict[str, Any]], None] = lambda trial, config: None
    stop: threading.Event = field(default_factory=threading.Event)
    stopped: str | None = None
    _failures: Counter[str] = field(default_factory=Counter[str])
    _num_done: int = 0
    _start_s: float | None = None

    @property
    def must_end(self) -> bool:
        """A signal came, or trials fail one like the other."""
        return self.stop.is_set() or self.stopped is not None

    def ended(self, result: dict[str, Any]) -> None:
        """A trial came to its end with this report."""
        reason = result.get(FAILED)
        if reason is None:
            self._num_done += 1
            return
        self._failures[str(reason)] += 1
        count = self._failures[str(reason)]
        if count >= SYSTEMATIC and not self._num_done and len(self._failures) == 1:
            self.stopped = f"{count} trials failed alike and none succeeded ({reason})"

    def look(self, states: Sequence[str]) -> None:
        """Show and write how many trials are in which of Tune's states."""
        counts = Counter(states)
        failed = counts["ERROR"] + sum(self._failures.values())
        done = counts["TERMINATED"] + counts["ERROR"] - failed
        elapsed = round(time.monotonic() - self.status.started, 1)
        entry: dict[str, Any] = {"total": self.total, "done": done, "running": counts["RUNNING"], "failed": failed}
        if done + failed:
            self._start_s = elapsed if self._start_s is None else self._start_s
            rate = (done + failed - 1) / max(elapsed - self._start_s, 1e-3)
            if rate > 0:
                entry["remaining_s"] = round((self.total - done - failed) / rate, 1)
        snapshot = {"elapsed_s": elapsed, "stages": {self.title: entry}, "running": [], "failures": []}
        self.status.write(snapshot, force=done + failed == self.total)
        self.show(snapshot)


def end_loop() -> None:
    """Ask Tune's loop to save its state and return; it listens to SIGUSR1 while it runs."""
    signal.raise_signal(signal.SIGUSR1)
