"""A small grid with points, results put into a store without computing them, and trials without Ray."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config import Document
from pipeline.grid.spec import GridSpec, grid_from
from pipeline.grid.tasks import Task
from pipeline.store import Store
from pipeline.tune.watch import Watch
from pipeline.tune.work import FAILED, Planner, run_work
from tests.grid_doubles import LocalExecutor
from tests.grids import merged

TUNED: dict[str, Any] = {
    "name": "tuned",
    "experiment": {
        "dataset": {"kind": "digits", "name": "digits", "max_train": 256},
        "network": {"kind": "mlp", "width": 16, "depth": 1},
        "train": {"steps": 10, "batch": 32, "lr": 1e-3},
    },
    "grid": [
        {"baseline": "gud", "softness_a": [0.4, 0.8, 1.2, 1.6], "amortise": {"softness_a": [0.4, 1.6]}},
        {"baseline": "gaussian"},
    ],
    "evaluate": {
        "num_images": 40,
        "block_images": 40,
        "batch_images": 40,
        "samplers": {"gud": {"kind": ["ddim", "euler"], "steps": 2}},
        "metrics": ["elbo", "nll", "fd_clf"],
        "elbo": {"kind": "elbo", "num_times": 4},
        "likelihood": {"kind": "ode", "steps": 2, "trace": "rademacher"},
        "nll_images": 20,
        "nll_block_images": 20,
        "feature_net": {"train": {"steps": 10, "batch": 32, "lr": 1e-3}},
    },
    "tune": {"mode": "staged", "rungs": [["elbo"], ["nll", "fd_clf"]], "promote": 2},
}
SEARCH: dict[str, Any] = {
    "grid": [{"baseline": "gud", "softness_a": 1.0, "amortise": {"softness_a": [0.4, 1.6]}}],
    "evaluate": {"metrics": ["elbo"], "samplers": {"gud": {"kind": "ddim", "steps": 2}}},
    "tune": {
        "mode": "search",
        "search": {"space": {"softness_a": [0.4, 1.6]}, "step": 0.1, "num_trials": 5},
        "rungs": [["elbo"]],
        "promote": 2,
    },
}


def tuned(**changes: Any) -> GridSpec:
    """The grid of four amortised points and a control, with changes."""
    return grid_from(Document(merged(TUNED, changes), source="grid.yaml"))


def tuned_file(folder: Path, **changes: Any) -> Path:
    """The same as a file."""
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(merged(TUNED, changes), sort_keys=False))
    return path


def put_result(store: Store, task: Task, metrics: Mapping[str, float], **bits: Sequence[float]) -> None:
    """Commit a result as if it had been measured; `elbo` and `nll` are bits/dim per image."""
    arrays: dict[str, Any] = {}
    for name, values in bits.items():
        arrays |= {f"{name}_index": np.arange(len(values)), f"{name}_bits_per_dim": np.asarray(values)}
    row = {
        "metrics": {**metrics, **{f"{name}_bpd": float(np.mean(values)) for name, values in bits.items()}},
        "reasons": {},
        "protocol": {name: {"split": "test"} for name in bits},
    }
    with store.attempt(task.key, identity=task.spec.identity(), inputs=dict(task.inputs)) as attempt:
        attempt.path("result.json").write_text(json.dumps(row))
        np.savez(attempt.path("result.npz"), allow_pickle=False, **arrays)
        attempt.commit(meta=row)


@dataclass
class LocalTune:
    """Stands in for Ray and Tune: trials one after another in this process, tried again as Tune would.

    Attributes:
        started: how often Ray would have been started.
        trials: names of all trials that ran, in order.
    """

    monkeypatch: pytest.MonkeyPatch
    started: int = 0
    trials: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        cluster: Any = ModuleType("pipeline.tune.cluster")
        cluster.start_cluster = self._start
        experiment: Any = ModuleType("pipeline.tune.experiment")
        experiment.experiment_folder = lambda *parts: Path()
        experiment.run_listed = self._run_listed
        experiment.Slots = lambda max_concurrent, has_gpus: max_concurrent
        self.monkeypatch.setitem(sys.modules, "pipeline.tune.cluster", cluster)
        self.monkeypatch.setitem(sys.modules, "pipeline.tune.experiment", experiment)

    def _start(self, address: Any, max_units: Any, *, store: Store, **_: Any) -> Any:
        self.started += 1
        executor: Any = LocalExecutor(store)
        executor.has_gpus, executor.shutdown = False, lambda: None
        return executor

    def _run_listed(
        self, points: Sequence[Mapping[str, Any]], planner: Planner, *, store: Store, grid: str, watch: Watch, **_: Any
    ) -> Any:
        ended: Any = ModuleType("ended")
        ended.lost, ended.was_continued = {}, False
        for point in points:
            if watch.must_end:
                break
            work = planner.work({"point": point})
            self.trials.append(work.point)
            for attempt in range(3):
                try:
                    watch.ended(run_work(work, store, grid))
                    break
                except Exception as error:
                    if attempt == 2:
                        ended.lost[work.point] = f"{type(error).__name__}: {error}"
        assert FAILED == "failed"
        return ended
