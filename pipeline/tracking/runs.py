"""Experiment and runs, created or found again: showing a record twice is the same as showing it once."""

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.records import Key, Record, TrainRecord, curve_name, digest
from pipeline.tracking.target import Target
from pipeline.tracking.view import EXPERIMENT_KIND, KIND_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
DIGEST_TAG = "record"
MAX_METRICS, MAX_TEXTS = 800, 100  # per request: the server takes 1000 entries, of these 100 params and 100 tags
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

    def log(
        self, run: Run, *, params: Mapping[str, str] = {}, tags: Mapping[str, str] = {}, points: Sequence[Point] = ()
    ) -> None:
        """Appends to the run in as few requests as the server's limits allow; the last tag goes last."""
        from mlflow.entities import Metric, Param, RunTag

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, step) for name, value, step in points]
        texts = [Param(name, value) for name, value in params.items()]
        labels = [RunTag(name, value) for name, value in tags.items()]
        while len(metrics) > MAX_METRICS:
            self.client.log_batch(run.run_id, metrics=metrics[:MAX_METRICS])
            del metrics[:MAX_METRICS]
        while len(texts) > MAX_TEXTS:
            self.client.log_batch(run.run_id, params=texts[:MAX_TEXTS])
            del texts[:MAX_TEXTS]
        while len(labels) > MAX_TEXTS:
            self.client.log_batch(run.run_id, tags=labels[:MAX_TEXTS])
            del labels[:MAX_TEXTS]
        if metrics or texts or labels:
            self.client.log_batch(run.run_id, metrics=metrics, params=texts, tags=labels)
        run.params.update(params)
        run.tags.update(tags)
        run.metrics.update({name: value for name, value, _ in points})

    def show(self, record: Record) -> bool:
        """Makes the record's run show exactly this record; False if it did already.

        A parameter keeps its first value, so a differing one is named in a tag. The digest is the last thing
        written: whatever happens before it, the next attempt adds what is missing.
        """
        stamp = digest(record)
        if (known := self.runs.get(record.key)) is not None and known.digest == stamp:
            return False
        tags = {safe_name(name): str(value)[:MAX_TAG] for name, value in record.tags.items()}
        params = {safe_name(name): str(value)[:MAX_PARAM] for name, value in record.params.items()}
        metrics = {safe_name(name): value for name, value in record.metrics.items()}
        run = self.open_run(record.key, record.run_name, tags)
        for name, value in params.items():
            if run.params.get(name, value) != value:
                tags[f"changed.{name}"[:MAX_KEY]] = value[:MAX_TAG]
        points: list[Point] = [(name, value, 0) for name, value in metrics.items() if run.metrics.get(name) != value]
        if isinstance(record, TrainRecord):
            points += self._missing_points(run, record)
        elif record.artifacts and (lost := self._log_artifacts(run, record.artifacts)):
            tags["lost_files"] = ", ".join(lost)[:MAX_TAG]
        new_tags = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        new_params = {name: value for name, value in params.items() if name not in run.params}
        self.log(run, params=new_params, tags={**new_tags, DIGEST_TAG: stamp}, points=points)
        status = "FAILED" if record.tags.get("status") == "failed" else "FINISHED"
        if run.status != status:
            self.client.set_terminated(run.run_id, status)
            run.status = status
        return True

    def _missing_points(self, run: Run, record: TrainRecord) -> Iterator[Point]:
        """Points of the curve whose step the server does not have yet."""
        for metric, points in record.curve.items():
            name = safe_name(curve_name(metric))
            there: set[int] = set()
            if name in run.metrics:
                there = {point.step for point in self.client.get_metric_history(run.run_id, name)}
            yield from ((name, value, step) for step, value in points if step not in there)

    def _log_artifacts(self, run: Run, artifacts: Mapping[str, Path | bytes]) -> list[str]:
        """Uploads each file under its name, the same name again overwrites; the names whose file is gone."""
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
        return lost
