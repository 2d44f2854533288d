"""The training curve: window means of loss, gradient norm and metrics at steps that only `steps` decides."""

import math
from typing import Any

import numpy as np

_MAX_ROWS = 1000


class Curve:
    """Rows at the end of each window of `ceil(steps / 1000)` steps; skipped steps enter no mean."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.window = math.ceil(steps / _MAX_ROWS)
        self._rows: dict[str, list[float]] = {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: float) -> None:
        """One value of the running window, for example `loss`."""
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def end_step(self, step: int, lr: float) -> None:
        """Close the window if zero-based `step` is its last; columns without a value get NaN."""
        if (step + 1) % self.window and step + 1 != self.steps:
            return
        num_rows = len(self._rows.get("step", []))
        row: dict[str, float] = {"step": step + 1, "lr": lr}
        for name, total in self._sums.items():
            row[name] = total / self._counts[name] if self._counts[name] else math.nan
        for name, value in row.items():
            column = self._rows.setdefault(name, [])
            column += [math.nan] * (num_rows - len(column)) + [value]
        self._sums = dict.fromkeys(self._sums, 0.0)
        self._counts = dict.fromkeys(self._counts, 0)

    def last(self, name: str) -> float:
        """The newest finite mean of a column; NaN if there is none."""
        return next((value for value in reversed(self._rows.get(name, [])) if math.isfinite(value)), math.nan)

    def arrays(self) -> dict[str, np.ndarray]:
        """Columns, `(num_rows,)`: `step` int64 (steps done), the others float64."""
        columns = {name: np.array(values) for name, values in sorted(self._rows.items())}
        return columns | {"step": np.array(self._rows.get("step", []), dtype=np.int64)}

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; NaN is written as null."""
        rows = {name: [None if math.isnan(v) else v for v in values] for name, values in self._rows.items()}
        return {"rows": rows, "sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._rows = {name: [math.nan if v is None else v for v in values] for name, values in state["rows"].items()}
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
