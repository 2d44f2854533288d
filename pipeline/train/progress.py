"""What a running cell says about itself; all that is measured by a clock stays here and out of artifacts."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """State of a training after `step` of `steps` steps."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    num_skipped: int
    images_per_s: float
    seconds: float  # since this process started or resumed the cell

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


Report = Callable[[Progress], None]


class Pace:
    """Decides when to report and measures the rate since the last report."""

    def __init__(self, report: Report | None, *, every_s: float, batch: int, first_step: int) -> None:
        self._report, self._every_s, self._batch = report, every_s, batch
        self._start = self._last = time.monotonic()
        self._last_step = first_step

    def step_done(self, step: int, steps: int, *, loss: float, grad_norm: float, lr: float, num_skipped: int) -> None:
        """Report if `every_s` seconds have passed or the cell is done; `step` steps are done."""
        if self._report is None:
            return
        now = time.monotonic()
        if now - self._last < self._every_s and step < steps:
            return
        rate = (step - self._last_step) * self._batch / max(now - self._last, 1e-9)
        self._last, self._last_step = now, step
        self._report(
            Progress(
                step=step,
                steps=steps,
                loss=loss,
                grad_norm=grad_norm,
                lr=lr,
                num_skipped=num_skipped,
                images_per_s=rate,
                seconds=now - self._start,
            )
        )
