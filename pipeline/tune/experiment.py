"""One experiment of Ray Tune: a trial per point, worker processes that are reused, and continuation after a kill.

The store is the truth; Tune's own state only saves looking up what is finished. It is pickled, so it lies in a folder
of this user and never in a store, which may come from elsewhere.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import Searcher

from pipeline.grid.schedule import signature
from pipeline.store import Store
from pipeline.train.outcome import Failure
from pipeline.tune.watch import Watch, end_loop
from pipeline.tune.work import Planner, run_work

log = logging.getLogger(__name__)

MAX_FAILURES = 2
"""How often Tune tries a trial again after its process died or it raised."""
FINISHED = "finished"
"""File in the folder of an experiment that came to its end; such a one is not continued."""
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no TensorBoard files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # a killed driver forgets little
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are handled by the driver
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no tables
}


@dataclass(frozen=True)
class Slots:
    """How many trials may run at once, and what each takes."""

    max_concurrent: int
    has_gpus: bool

    @property
    def resources(self) -> dict[str, float]:
        """Of one trial."""
        return {"CPU": 1.0, "GPU": 1.0} if self.has_gpus else {"CPU": 1.0}


@dataclass(frozen=True)
class Ended:
    """What became of an experiment.

    Attributes:
        lost: reason of each trial whose process raised or died too often, by the trial's point.
        was_continued: whether Tune took up an earlier command's experiment.
    """

    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    was_continued: bool = False


class PointTrial(tune.Trainable):
    """Evaluates one point in one step. The process stays for the next trial, with its libraries and last model."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, config: dict[str, Any], *, planner: Planner, store: Store, grid: str
    ) -> None:
        """Keep what all trials share; called once per process."""
        import torch

        torch.set_num_threads(1)
        self._planner, self._store, self._grid = planner, store, grid

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial may follow in this process."""
        return True

    def step(self) -> dict[str, Any]:
        """Run the trial to its end."""
        work = self._planner.work(self.config)
        return {**run_work(work, self._store, self._grid), "done": True}


_current: Watch | None = None
"""Whom the callback of the experiment that runs in this process tells; Tune pickles callbacks, so they hold nothing."""


class _Reports(tune.Callback):
    def on_step_begin(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        if _current is not None and _current.must_end:
            end_loop()

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        if _current is not None:
            _current.look([trial.status for trial in trials])

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        if _current is not None:
            _current.began(trial.trial_id, trial.config)

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        if _current is not None:
            _current.ended(trial.last_result)


def experiment_folder(store: Store, grid: str, part: str, identity: str) -> Path:
    """Where Tune keeps its state: the same for the same request; others of this part of the grid are removed.

    It lies below PIPELINE_SCRATCH, else in the cache folder of this user.
    """
    base = Path(os.environ.get("PIPELINE_SCRATCH") or store.cache.root) / "tune"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    start = f"{grid}-{hashlib.sha256(store.url.encode()).hexdigest()[:8]}-{part}-"
    folder = base / f"{start}{identity[:12]}"
    for other in base.glob(f"{start}*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def run_listed(
    points: Sequence[Mapping[str, Any]],
    planner: Planner,
    *,
    store: Store,
    grid: str,
    folder: Path,
    slots: Slots,
    watch: Watch,
) -> Ended:
    """A trial for each of the points; a killed experiment of the same folder is continued.

    Args:
        points: `name` and the parameters of each, which become columns of Tune's result table.
        planner: knows each point's work.
        store: for the trials.
        grid: its name.
        folder: see `experiment_folder`.
        slots: what a trial takes.
        watch: told what happens.
    """
    space = {"point": tune.grid_search([dict(point) for point in points])}
    trainable = _trainable(planner, store, grid, slots)
    return _run(trainable, space, _config(slots), planner=planner, folder=folder, watch=watch)


def run_search(
    searcher: Searcher,
    planner: Planner,
    *,
    num_trials: int,
    store: Store,
    grid: str,
    folder: Path,
    slots: Slots,
    watch: Watch,
) -> Ended:
    """Trials at points that the searcher proposes; a killed search of the same folder is continued with its memory.

    Args:
        searcher: proposes configurations that `planner` understands.
        planner, store, grid, folder, slots, watch: see `run_listed`.
        num_trials: proposals, unless a search is continued, which keeps its own number.
    """
    config = _config(slots, search_alg=searcher, num_samples=num_trials)
    trainable = _trainable(planner, store, grid, slots)
    return _run(trainable, {}, config, planner=planner, folder=folder, watch=watch)


def _trainable(planner: Planner, store: Store, grid: str, slots: Slots) -> Any:
    shared = tune.with_parameters(PointTrial, planner=planner, store=store, grid=grid)
    return tune.with_resources(shared, slots.resources)


def _config(slots: Slots, **search: Any) -> tune.TuneConfig:
    """What all experiments share: processes that are reused, and a cap on trials."""
    return tune.TuneConfig(
        reuse_actors=True,
        max_concurrent_trials=slots.max_concurrent,
        trial_dirname_creator=_folder_name,
        **search,
    )


def _folder_name(trial: Any) -> str:
    return str(trial.trial_id)


def _run(trainable: Any, space: dict[str, Any], config: Any, *, planner: Planner, folder: Path, watch: Watch) -> Ended:
    global _current
    os.environ.update(ENVIRONMENT)
    if not log.isEnabledFor(logging.INFO):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are reported by the driver
    tuner = _continued(trainable, folder)
    was_continued = tuner is not None
    if tuner is None:
        shutil.rmtree(folder, ignore_errors=True)
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Reports(), JsonLoggerCallback()],
                verbose=0,
            ),
        )
    _current = watch
    try:
        results = tuner.fit()
    finally:
        _current = None
    if not watch.stop.is_set():
        (folder / FINISHED).touch()
    lost: dict[str, str] = {}
    for result in results:
        if result.error is not None and result.config is not None:
            lost[planner.name(result.config)] = signature(Failure.of(_cause(result.error)))
    return Ended(lost, was_continued)


def _continued(trainable: Any, folder: Path) -> Any | None:
    """The tuner of an experiment that was killed or interrupted, or None where a fresh one has to be made."""
    if (folder / FINISHED).exists() or not tune.Tuner.can_restore(str(folder)) or not _has_state(folder):
        return None
    if not all(_is_private(path) for path in (folder.parent, folder)):
        log.warning("event=experiment_not_continued folder=%s reason='others may write there'", folder)
        return None
    try:
        tuner = tune.Tuner.restore(str(folder), trainable=trainable, resume_errored=True)
    except Exception as error:  # written by another version, or cut off: nothing is lost, the store has the results
        log.warning("event=experiment_not_continued folder=%s reason=%r", folder, error)
        return None
    log.info("event=experiment_continued folder=%s", folder)
    return tuner


def _is_private(folder: Path) -> bool:
    """Whether nobody else can have put anything there: what is unpickled runs as code."""
    status = folder.stat(follow_symlinks=False)
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _has_state(folder: Path) -> bool:
    """Whether the newest snapshot of the trials is there and whole: without it Tune would begin one without a point."""
    snapshots = sorted(folder.glob("experiment_state-*.json"))
    try:
        return bool(snapshots) and isinstance(json.loads(snapshots[-1].read_text()), dict)
    except (OSError, ValueError):
        return False


def _cause(error: BaseException) -> BaseException:
    """The exception of the trial, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error
