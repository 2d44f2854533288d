"""Experiment and runs, created or found again: showing a record twice is the same as showing it once."""

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.records import Key, Record, ResultRecord, TrainRecord, curve_name, digest
from pipeline.tracking.target import Target
from pipeline.tracking.view import EXPERIMENT_KIND, KIND_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
DIGEST_TAG = "record"
MAX_PER_REQUEST = 1000  # metrics; the server's limit
MAX_TEXTS_PER_REQUEST = 100  # params or tags
MAX_PARAM, MAX_TAG, MAX_KEY = 6000, 5000, 250  # characters
Point = tuple[str, float, int]  # metric, value, step


def is_experiment_name(name: str) -> bool:
    """The page shows only the last part of a name with slashes."""
    return bool(name) and "/" not in name


def safe_name(name: str) -> str:
    """Metric and parameter names hold letters, digits, _ - . space : and / on every server."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:MAX_KEY]


@dataclass
class Run:
    """What the server has of one run."""

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """Digest of the record that is shown whole, or None while it is not."""
        return None if self.status == "RUNNING" else self.tags.get(DIGEST_TAG)


class Experiment:
    """The runs of one grid. Every call may raise what the client raises; none leaves anything to undo."""

    def __init__(self, client: "MlflowClient", target: Target, name: str) -> None:
        self.client = client
        self.name = name
        self.experiment_id = self._found_or_created(target)
        self.runs: dict[Key, Run] = {}
        self._index()

    def _found_or_created(self, target: Target) -> str:
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            tags = {KIND_TAG: EXPERIMENT_KIND}
            return self.client.create_experiment(self.name, target.artifact_location, tags=tags)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def is_current(self) -> bool:
        """False after the server has lost its data: the name is gone or has another id."""
        found = self.client.get_experiment_by_name(self.name)
        return found is not None and str(found.experiment_id) == self.experiment_id

    def _index(self) -> None:
        """All runs by key, oldest first: a create whose reply was lost may have left a twin, which is removed."""
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string="tags.fingerprint != ''",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for found in page:
                tags = dict(found.data.tags)
                key: Key = ("train" if tags.get("kind") == "train" else "result", tags["fingerprint"])
                if key in self.runs:
                    logger.info("fingerprint=%s kind=%s a second run is removed", key[1][:12], key[0])
                    self.client.delete_run(found.info.run_id)
                    continue
                name = found.info.run_name or ""
                run = Run(found.info.run_id, name, found.info.status, dict(found.data.params))
                run.metrics, run.tags = dict(found.data.metrics), tags
                self.runs[key] = run
            token = page.token
            if not token:
                return

    def set_tag(self, name: str, value: str) -> None:
        self.client.set_experiment_tag(self.experiment_id, name, value)

    def open_run(self, key: Key, name: str, tags: Mapping[str, str]) -> Run:
        """The key's run, running, created with its tags in one step if it is new."""
        run = self.runs.get(key)
        if run is None:
            given = {"kind": key[0], "fingerprint": key[1], "grid": self.name, **tags}
            created = self.client.create_run(self.experiment_id, tags=given, run_name=name)
            run = self.runs[key] = Run(created.info.run_id, name, "RUNNING", tags=given)
        elif run.name != name:
            self.client.update_run(run.run_id, name=name)
            run.name = name
        return run

    def log_points(self, run: Run, points: Sequence[Point]) -> None:
        """Appends metric points, whatever is there already."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        entities = [Metric(name, value, now, step) for name, value, step in points]
        for start in range(0, len(entities), MAX_PER_REQUEST):
            self.client.log_batch(run.run_id, metrics=entities[start : start + MAX_PER_REQUEST])
        run.metrics.update({name: value for name, value, _ in points})

    def show(self, record: Record) -> bool:
        """Makes the record's run show exactly this record; False if it did already."""
        stamp = digest(record)
        if (known := self.runs.get(record.key)) is not None and known.digest == stamp:
            return False
        tags = {safe_name(name): str(value)[:MAX_TAG] for name, value in record.tags.items()}
        run = self.open_run(record.key, record.run_name, tags)
        self._log_params(run, record.params)
        self._log_tags(run, {name: value for name, value in tags.items() if run.tags.get(name) != value})
        metrics = {safe_name(name): value for name, value in record.metrics.items()}
        self.log_points(run, [(name, value, 0) for name, value in metrics.items() if run.metrics.get(name) != value])
        if isinstance(record, TrainRecord):
            self.log_points(run, list(self._missing_points(run, record)))
        if isinstance(record, ResultRecord):
            self._log_artifacts(run, record.artifacts)
        self._log_tags(run, {DIGEST_TAG: stamp})
        status = "FAILED" if record.tags.get("status") == "failed" else "FINISHED"
        if run.status != status:
            self.client.set_terminated(run.run_id, status)
            run.status = status
        return True

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Logs what is missing. The server keeps a parameter's first value; a differing one goes into a tag."""
        from mlflow.entities import Param

        given = {safe_name(name): str(value)[:MAX_PARAM] for name, value in params.items()}
        new = [Param(name, value) for name, value in given.items() if name not in run.params]
        for start in range(0, len(new), MAX_TEXTS_PER_REQUEST):
            self.client.log_batch(run.run_id, params=new[start : start + MAX_TEXTS_PER_REQUEST])
        run.params.update({param.key: param.value for param in new})
        changed = {name: value for name, value in given.items() if run.params[name] != value}
        self._log_tags(run, {f"changed.{name}": value[:MAX_TAG] for name, value in changed.items()})

    def _log_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(name, value) for name, value in tags.items()]
        for start in range(0, len(entities), MAX_TEXTS_PER_REQUEST):
            self.client.log_batch(run.run_id, tags=entities[start : start + MAX_TEXTS_PER_REQUEST])
        run.tags.update(tags)

    def _missing_points(self, run: Run, record: TrainRecord) -> Iterable[Point]:
        """Points of the curve whose step the server does not have yet."""
        for metric, points in record.curve.items():
            name = safe_name(curve_name(metric))
            there: set[int] = set()
            if name in run.metrics:
                there = {point.step for point in self.client.get_metric_history(run.run_id, name)}
            yield from ((name, value, step) for step, value in points if step not in there)

    def _log_artifacts(self, run: Run, artifacts: Mapping[str, Path | bytes]) -> None:
        """Uploads each file under its name; the same name again overwrites."""
        if not artifacts:
            return
        lost: list[str] = []
        with tempfile.TemporaryDirectory(prefix="tracking-") as folder:
            for name, content in artifacts.items():
                local = Path(folder) / Path(name).name
                if isinstance(content, bytes):
                    local.write_bytes(content)
                elif content.is_file():
                    shutil.copyfile(content, local)
                else:
                    lost.append(name)
                    continue
                parent = Path(name).parent.as_posix()
                self.client.log_artifact(run.run_id, str(local), None if parent == "." else parent)
                local.unlink()
        if lost:
            self._log_tags(run, {"lost_files": ", ".join(lost)[:MAX_TAG]})
