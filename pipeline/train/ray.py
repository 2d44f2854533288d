"""Worker groups of Ray Train: one group trains many cells, so that its start-up is paid once."""

import faulthandler
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

from pipeline.config import parse
from pipeline.store import Documents, Key, Store
from pipeline.train.cells import Cell, train_cells
from pipeline.train.group import current_group
from pipeline.train.interface import choose_interface
from pipeline.train.outcome import WORKER_LOST, Failure
from pipeline.train.spec import TrainTask
from pipeline.train.status import StatusBoard, read_status

log = logging.getLogger(__name__)

Event = dict[str, Any]
_START_TRIES = 3
_POLL_S = 1.0
_COLLECTIVE_TIMEOUT_S = 1800  # rank 0 may be patient with the store for 10 minutes


def run_group(
    cells: Sequence[tuple[Key, TrainTask | Mapping[str, Any], Mapping[str, Key], str]],
    *,
    store: Store,
    grid: str,
    num_workers: int,
    run_name: str,
    storage_path: str,
    use_gpu: bool = False,
    cpus_per_worker: float = 1.0,
    max_failures: int = 3,
    on_event: Callable[[Event], None] | None = None,
) -> dict[Key, dict[str, Any]]:
    """Train cells one after another on `num_workers` workers; Ray is initialised by the caller.

    Finished cells are in the store as soon as they are finished. A cell that fails is recorded and the others go on.
    When workers die the group starts again: finished cells are passed over, the running one continues from its state.

    Args:
        cells: (key, task, keys of its inputs, label) in the order of work.
        store: artifacts, resumable state and, below `grids/<grid>`, documents about progress.
        grid: name of the grid.
        num_workers: world size; each worker takes an equal part of the global batch.
        run_name: unique per attempt; Ray's run directory below `storage_path` is scratch.
        storage_path: a folder of this host; no other host looks at it, as no checkpoints go through Ray.
        use_gpu: one GPU per worker and NCCL; otherwise gloo.
        cpus_per_worker: CPUs that Ray reserves for a worker.
        max_failures: restarts of the group after a worker has died.
        on_event: called from a thread with the newest document about the running cell, about once per second.

    Returns:
        `kind, message, details, is_lost` of each cell that failed; cells that are done are absent.
    """
    described = [
        {
            "key": str(key),
            "task": task.model_dump(mode="json") if isinstance(task, TrainTask) else dict(task),
            "inputs": {name: str(value) for name, value in inputs.items()},
            "label": label,
        }
        for key, task, inputs, label in cells
    ]
    keys = [key for key, *_ in cells]
    config = {"cells": described, "store": store, "grid": grid, "run": run_name}
    scaling = ScalingConfig(
        num_workers=num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
    )
    watch = _Watch(store.documents(f"grids/{grid}"), run_name, keys, on_event)
    try:
        failures = _fitted(config, scaling, run_name=run_name, storage_path=storage_path, max_failures=max_failures)
    except TrainingFailedError as error:
        log.warning("event=group_failed run=%s error=%r", run_name, error)
        failures = {str(key): asdict(f) for key, f in _lost(keys, error, store=store, grid=grid, run=run_name).items()}
    finally:
        watch.close()
    return {key: failures[str(key)] for key in keys if str(key) in failures}


def _fitted(
    config: dict[str, Any], scaling: ScalingConfig, *, run_name: str, storage_path: str, max_failures: int
) -> dict[str, dict[str, Any]]:
    """Start the group; failing to connect at the start is tried again, because Ray Train does not."""
    backend = "cpu:gloo,cuda:nccl" if scaling.use_gpu else "gloo"
    for attempt in range(_START_TRIES):
        trainer = TorchTrainer(
            _train_group,
            train_loop_config=config,
            scaling_config=scaling,
            torch_config=_Torch(backend=backend, timeout_s=_COLLECTIVE_TIMEOUT_S),
            run_config=RunConfig(
                name=f"{run_name}-{attempt}",
                storage_path=storage_path,
                failure_config=FailureConfig(max_failures=max_failures),
                worker_runtime_env={"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}},
            ),
        )
        try:
            return trainer.fit().return_value or {}
        except ControllerError as error:
            if attempt + 1 == _START_TRIES:
                raise
            log.warning("event=group_start_failed run=%s attempt=%d error=%r", run_name, attempt, error)
    raise RuntimeError("unreachable: the last try raises or returns")


class _Backend(TorchConfig().backend_cls):
    """Ray's own set-up of the process group, after every worker has chosen its network interface."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        is_one_host = sum(node["Alive"] for node in ray.nodes()) == 1
        worker_group.execute(choose_interface, is_one_host=is_one_host)
        super().on_start(worker_group, backend_config)


class _Torch(TorchConfig):
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def _train_group(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each worker of the group does."""
    store: Store = config["store"]
    group = current_group()
    device = torch.device(get_device())
    cells = [
        Cell(
            Key.parse(described["key"]),
            parse(TrainTask, described["task"]),
            {name: Key.parse(key) for name, key in described["inputs"].items()},
            described["label"],
        )
        for described in config["cells"]
    ]
    documents = store.documents(f"grids/{config['grid']}") if group.is_first else None
    board = StatusBoard(documents, config["run"])
    try:
        failures = train_cells(cells, store, group=group, device=device, board=board, on_stuck=_end_process)
    finally:
        board.close()
    log.info("event=group_done host=%s rank=%d failures=%d", socket.gethostname(), group.rank, len(failures))
    return {str(key): asdict(failure) for key, failure in failures.items()}


def _end_process(reason: str) -> None:
    """A worker that stands still dies, so that Ray starts its group again from the last checkpoint."""
    log.error("event=stuck host=%s pid=%d reason=%r", socket.gethostname(), os.getpid(), reason)
    faulthandler.dump_traceback()  # of all threads: where it hangs
    os._exit(1)


def _lost(keys: Sequence[Key], error: Exception, *, store: Store, grid: str, run: str) -> dict[Key, Failure]:
    """After the group's last death: recorded failures as recorded, unfinished cells as lost."""
    documents = store.documents(f"grids/{grid}")
    failures: dict[Key, Failure] = {}
    for key in keys:
        if store.find(key) is not None:
            continue
        status = read_status(documents, key) or {}
        if status.get("run") == run and status.get("failure"):
            failures[key] = Failure(**status["failure"])
        else:
            failures[key] = Failure(WORKER_LOST, f"the worker group died: {error}", is_lost=True)
    return failures


class _Watch:
    """Passes on the documents about the cells that are not finished, one look per second."""

    def __init__(
        self, documents: Documents, run_name: str, keys: Sequence[Key], on_event: Callable[[Event], None] | None
    ) -> None:
        self._documents, self._run_name, self._keys, self._on_event = documents, run_name, list(keys), on_event
        self._seen: dict[Key, Event] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="group-watch", daemon=True)
        if on_event is not None:
            self._thread.start()

    def close(self) -> None:
        """Look once more and end."""
        self._is_closed.set()
        if self._on_event is not None:
            self._thread.join()

    def _look_often(self) -> None:
        while not self._is_closed.wait(_POLL_S):
            self._look()
        self._look()

    def _look(self) -> None:
        assert self._on_event is not None
        while self._keys:
            key = self._keys[0]
            try:
                status = read_status(self._documents, key)
            except Exception as error:  # progress is a convenience
                log.warning("event=status_unreadable key=%s error=%r", key.short, error)
                return
            if status is None or status["run"] != self._run_name or status == self._seen.get(key):
                return
            self._seen[key] = status
            self._on_event(status)
            if status.get("state") not in ("done", "failed"):
                return
            self._keys.pop(0)
