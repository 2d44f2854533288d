"""The one retry layer: exponential back-off with full jitter within a budget."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pipeline.store.backend import Transient
from pipeline.store.errors import StoreUnavailable

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Clock(Protocol):
    """Monotonic time and waiting; tests pass one that only counts."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this process."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


WORTH_TELLING_S = 5.0
"""Shorter waits pass unnoticed; longer ones are logged as warnings."""


@dataclass(frozen=True)
class Retry:
    """Tries an operation until it answers.

    Attributes:
        first_s: upper end of the first wait; it doubles with each failure.
        most_s: upper end of every wait.
        budget_s: no new try starts later than this after the first one; 0 means a single try.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    budget_s: float = 600.0
    clock: Clock = field(default_factory=SystemClock)

    def __call__(self, what: str, operation: Callable[[], Result]) -> Result:
        """The operation's result.

        Raises:
            StoreUnavailable: only Transient answers came within the budget.
        """
        start = self.clock.monotonic()
        tries = 0
        while True:
            try:
                return operation()
            except Transient as error:
                tries += 1
                ceiling = min(self.most_s, self.first_s * 2.0 ** min(tries - 1, 30))
                wait = random.SystemRandom().uniform(0.0, ceiling)  # full jitter
                spent = self.clock.monotonic() - start
                if spent + wait > self.budget_s:
                    raise StoreUnavailable(f"{what}: {error} ({tries} tries in {spent:.0f} s)") from error
                level = logging.WARNING if wait >= WORTH_TELLING_S else logging.INFO
                log.log(level, "event=store_retry what=%s tries=%d wait_s=%.1f error=%s", what, tries, wait, error)
                self.clock.sleep(wait)
