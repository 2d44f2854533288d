"""Notices a training that stands still: a collective or a device that hangs, a worker that is stopped but not dead."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnStuck = Callable[[str], None]
_SLOW = 10.0  # times the median step
_FIRST = 5.0  # times the patience: the first step of a process warms up devices, allocators and compilers
_NUM_STEPS = 51  # that the median is taken of


class Heartbeat:
    """Tells `on_stuck` once when a step takes longer than 10 x the median of the last ones and than `patience_s`.

    Time counts only while this process runs, so a machine that sleeps or a debugger that holds the process is no hang.

    Args:
        patience_s: seconds that a step may always take.
        on_stuck: called in a thread with one sentence; None watches nothing.
        look_every_s: how often the thread looks.
    """

    def __init__(self, patience_s: float, on_stuck: OnStuck | None, *, look_every_s: float = 1.0) -> None:
        self._patience_s, self._on_stuck, self._look_every_s = patience_s, on_stuck, look_every_s
        self._durations: deque[float] = deque(maxlen=_NUM_STEPS)
        self._begun_at = self._looked_at = 0.0
        self._standing_s = 0.0
        self._is_paused = False
        self._ended = threading.Event()

    @property
    def limit_s(self) -> float:
        """Seconds that the running step may take."""
        if not self._durations:
            return _FIRST * self._patience_s
        return max(self._patience_s, _SLOW * statistics.median(tuple(self._durations)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Steps are expected inside the block."""
        self._begun_at = self._looked_at = time.monotonic()
        if self._on_stuck is None:
            yield
            return
        thread = threading.Thread(target=self._watch, args=(self._on_stuck,), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside the block has a patience of its own: the store's."""
        self._is_paused = True
        try:
            yield
        finally:
            self._standing_s, self._begun_at = 0.0, time.monotonic()
            self._is_paused = False

    def step_done(self) -> None:
        """A step has ended, the next one begins."""
        now = time.monotonic()
        self._durations.append(now - self._begun_at)
        self._standing_s, self._begun_at = 0.0, now

    def look(self) -> str | None:
        """What to say if the running step takes too long; called every `look_every_s`."""
        now = time.monotonic()
        passed_s, self._looked_at = min(now - self._looked_at, 2 * self._look_every_s), now
        if self._is_paused:
            return None
        self._standing_s += passed_s
        if self._standing_s <= self.limit_s:
            return None
        return (
            f"no step has ended for {self._standing_s:.0f} s; {self.limit_s:.0f} s are allowed "
            "(train.stuck_after_s, or 10 times the median step)"
        )

    def _watch(self, on_stuck: OnStuck) -> None:
        while not self._ended.wait(self._look_every_s):
            reason = self.look()
            if reason is not None:
                on_stuck(reason)
                return
