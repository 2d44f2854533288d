"""Where tasks run: a pool of Ray actors for single tasks, and Ray Train worker groups for trainings."""

import logging
import secrets
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from pipeline.config import ConfigError
from pipeline.grid.environment import WORKER_ENVIRONMENT, cluster_address
from pipeline.grid.schedule import Outcome
from pipeline.grid.tasks import SHARDED, Task, execute
from pipeline.ingest.ray import RayShardMap
from pipeline.ingest.stage import ShardMap
from pipeline.store import Key, Store
from pipeline.train.outcome import Failure
from pipeline.train.ray import run_group
from pipeline.train.spec import TrainTask

log = logging.getLogger(__name__)


def start_ray(address: str | None, num_cpus: int | None) -> None:
    """Join the cluster at `address`, or start Ray on this machine; the environment is prepared already.

    Raises:
        ConfigError: the cluster cannot be joined, for example because it has another version of Ray.
    """
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    joined = cluster_address(address)
    if joined is not None:
        try:
            ray.init(address=joined, runtime_env={"env_vars": WORKER_ENVIRONMENT}, **options)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            if "InvalidAuthToken" in f"{error} {error.__cause__}":
                raise ConfigError(
                    f"the Ray cluster at {joined} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH "
                    "(or RAY_AUTH_TOKEN) to the cluster's own"
                ) from None
            reason = " ".join(str(error).split())[:400]  # versions stand in later lines
            raise ConfigError(f"cannot join the Ray cluster at {joined}: {reason}") from error
    else:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **options)


def failure_of(error: BaseException, *, is_lost: bool = False) -> Failure:
    """The record of an exception; details hold the last lines of the traceback."""
    cause = getattr(error, "cause", None)
    cause = cause if isinstance(cause, BaseException) else error
    details = "".join(traceback.format_exception(cause))[-4000:]
    return Failure(type(cause).__name__, str(cause), details, is_lost)


class _StageActor:
    """One worker process; stage modules keep the last model that they loaded."""

    def __init__(self, store: Store) -> None:
        import torch

        torch.set_num_threads(1)
        self._store = store

    def run(self, task: Task) -> Outcome:
        return _executed(task, self._store)


def _executed(task: Task, store: Store, shard_map: ShardMap | None = None) -> Outcome:
    start = time.monotonic()
    try:
        execute(task, store, shard_map=shard_map)
    except Exception as error:  # the boundary of a cell: recorded here, the others go on
        return Outcome(task.key, failure_of(error))
    return Outcome(task.key, seconds=time.monotonic() - start)


def _spread(task: Task, store: Store) -> Outcome:
    """Run a stage that works shard by shard; this process only hands out and collects."""
    return _executed(task, store, RayShardMap())


def _train_group(tasks: list[Task], store: Store, options: dict[str, Any]) -> list[Outcome]:
    """Run a training group inside a Ray task, so that several groups can run side by side."""
    cells: list[tuple[Key, TrainTask, dict[str, Key], str]] = []
    for task in tasks:
        assert isinstance(task.spec, TrainTask)
        cells.append((task.key, task.spec, dict(task.inputs), task.label))
    failures = run_group(cells, store=store, **options)
    return [Outcome(task.key, Failure(**failures[task.key]) if task.key in failures else None) for task in tasks]


@dataclass
class _Running:
    tasks: list[Task]
    units: int
    actor: Any = None


class RayExecutor:
    """Admits work by a budget of units: GPUs where the cluster has any, else CPUs."""

    def __init__(self, store: Store, *, grid: str, scratch: str, max_units: int | None = None) -> None:
        resources = ray.cluster_resources()
        self._store = store
        self._grid = grid
        self._scratch = scratch
        self.has_gpus = resources.get("GPU", 0) >= 1
        total = int(resources.get("GPU", 0) if self.has_gpus else resources.get("CPU", 0))
        if total == 0:
            log.warning("event=no_workers action='the cluster has no CPU or GPU yet; waiting for hosts to join'")
        self.total_units = max(1, min(total, max_units or total))
        self._running: dict[Any, _Running] = {}
        self._idle: list[Any] = []
        self._actor_class: Any = ray.remote(num_cpus=1, num_gpus=1 if self.has_gpus else 0)(_StageActor)
        self._spread_task: Any = ray.remote(num_cpus=0, max_retries=0)(_spread)
        self._group_task: Any = ray.remote(num_cpus=0, max_retries=0)(_train_group)
        self._groups_started = 0

    @property
    def free_units(self) -> int:
        """Units that no running task uses; idle actors count as free."""
        return self.total_units - sum(item.units for item in self._running.values())

    def submit(self, task: Task) -> None:
        """Run one task on an actor of the pool; a stage that works shard by shard gets all free units."""
        if task.stage in SHARDED:
            units = self.free_units
            self._dismiss_idle(len(self._idle))
            self._running[self._spread_task.remote(task, self._store)] = _Running([task], units)
            return
        actor = self._idle.pop() if self._idle else self._actor_class.remote(self._store)
        self._running[actor.run.remote(task)] = _Running([task], 1, actor)

    def submit_group(self, tasks: Sequence[Task], *, workers: int) -> None:
        """Train cells one after another in one worker group of `workers` processes."""
        self._dismiss_idle(workers)
        self._groups_started += 1
        options = {
            "grid": self._grid,
            "num_workers": workers,
            "use_gpu": self.has_gpus,
            "run_name": f"{self._grid}-{self._groups_started}-{secrets.token_hex(4)}",
            "storage_path": self._scratch,
        }
        reference = self._group_task.remote(list(tasks), self._store, options)
        self._running[reference] = _Running(list(tasks), workers)

    def _dismiss_idle(self, count: int) -> None:
        for _ in range(min(count, len(self._idle))):
            ray.kill(self._idle.pop())

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Outcomes of what ended within `timeout_s`."""
        if not self._running:
            return []
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        outcomes: list[Outcome] = []
        for reference in done:
            item = self._running.pop(reference)
            try:
                value = ray.get(reference)
                outcomes.extend([value] if isinstance(value, Outcome) else value)
                if item.actor is not None:
                    self._idle.append(item.actor)
            except RayError as error:
                lost = isinstance(error, RayActorError) or item.actor is None
                outcomes.extend(Outcome(task.key, failure_of(error, is_lost=lost)) for task in item.tasks)
        return outcomes

    def release(self) -> None:
        """Stop the actors, so that what they held is free; Ray goes on."""
        for item in self._running.values():
            if item.actor is not None:
                ray.kill(item.actor)
        self._running.clear()
        self._dismiss_idle(len(self._idle))

    def close(self) -> None:
        """Stop the actors and leave (or stop) Ray."""
        self.release()
        ray.shutdown()
