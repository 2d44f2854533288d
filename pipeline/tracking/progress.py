"""Live metrics of trainings that still run, thinned when they come fast, so that memory and traffic stay small."""

import math
from collections.abc import Mapping

from pipeline.tracking.records import curve_name

MAX_STEPS = 500  # per training between two uploads
Points = dict[int, dict[str, float]]  # step -> metric -> value


class ProgressQueue:
    """Points per fingerprint; when one is full, every second old point is dropped. Not thread-safe by itself."""

    def __init__(self, max_steps: int = MAX_STEPS) -> None:
        self.max_steps = max_steps
        self.points: dict[str, Points] = {}
        self.names: dict[str, str] = {}

    def put(self, fingerprint: str, metrics: Mapping[str, float], *, step: int, run_name: str | None) -> None:
        """Adds a point; non-finite values are left to the final record, which names them in a tag."""
        finite = {curve_name(name): float(value) for name, value in metrics.items() if math.isfinite(value)}
        if not finite:
            return
        steps = self.points.setdefault(fingerprint, {})
        steps.setdefault(int(step), {}).update(finite)
        if len(steps) > self.max_steps:
            for dropped in sorted(steps)[: self.max_steps : 2]:
                del steps[dropped]
        if run_name is not None:
            self.names[fingerprint] = run_name

    def taken(self) -> dict[str, Points]:
        """All points, which leave the queue."""
        points, self.points = self.points, {}
        return points

    def put_back(self, points: Mapping[str, Points]) -> None:
        """Returns points that could not be sent; newer ones win."""
        for fingerprint, steps in points.items():
            for step in sorted(steps):
                if step not in self.points.get(fingerprint, {}):
                    self.put(fingerprint, steps[step], step=step, run_name=None)
