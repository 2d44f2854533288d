"""One unit of work: a stage, its specification, and the artifacts that it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

from pipeline.config import Spec
from pipeline.evaluate import features, ladder, likelihood, moments, nearest, result
from pipeline.ingest import stage as ingest
from pipeline.ingest import statistics, terminal
from pipeline.ingest.stage import ShardMap
from pipeline.sample import stage as sample
from pipeline.sample import study
from pipeline.store import Artifact, Key, Store, fingerprint
from pipeline.train import stage as train

Progress = Callable[[int, int], None]
"""Called with (done, total) in the stage's own units."""

STAGES: dict[str, ModuleType] = {
    module.STAGE: module
    for module in (
        *(ingest, statistics, terminal, train, sample),
        *(features, ladder, nearest, likelihood, moments, result, study),
    )
}
"""Stages in the order of the data flow; each module has STAGE, STAGE_VERSION and `run`."""

SHARDED = (ingest.STAGE, statistics.STAGE, terminal.STAGE)
"""Stages that work shard by shard and can be spread inside one task."""


@dataclass(frozen=True)
class Task:
    """A stage to be run, addressed by everything that decides its output.

    Attributes:
        stage: name in `STAGES`.
        spec: the stage's specification.
        inputs: artifacts that the stage reads, by the name that it gives them.
        label: what people see.
        weight: expected work, in arbitrary units within one stage; for balancing only.
    """

    stage: str
    spec: Spec
    inputs: Mapping[str, Key]
    label: str = ""
    weight: float = field(default=1.0, compare=False)

    @cached_property
    def key(self) -> Key:
        """Address of the artifact that this task makes."""
        version = int(STAGES[self.stage].STAGE_VERSION)
        return Key(self.stage, fingerprint(self.stage, version, self.spec.identity(), dict(self.inputs)))


def execute(
    task: Task, store: Store, progress: Progress | None = None, *, shard_map: ShardMap | None = None
) -> Artifact:
    """Run a task in this process and commit what it made, unless it is there already.

    Args:
        task: what to run.
        store: has the inputs and receives the artifact. A training keeps its resumable state there.
        progress: called with (done, total) in the stage's own units.
        shard_map: how the shards of ingest and statistics are spread; one after another without it.

    Raises:
        DataError, ConfigError: the inputs cannot be used.
        StoreError: the store cannot be read or written.
    """
    existing = store.find(task.key)
    if existing is not None:
        return existing
    inputs: dict[str, Artifact] = {}
    for name, key in task.inputs.items():
        artifact = store.find(key)
        if artifact is None:
            raise RuntimeError(f"{task.label}: input {name} ({key}) is not in the store")
        inputs[name] = artifact
    report = progress or (lambda done, total: None)
    state = store.state(task.key.stage, task.key.fingerprint)
    options: dict[str, Any] = {}
    if task.stage == train.STAGE:
        options["state"] = state
    if task.stage in SHARDED and shard_map is not None:
        options["shard_map"] = shard_map
    with store.attempt(task.key, identity=task.spec.identity(), inputs=dict(task.inputs)) as attempt:
        meta: dict[str, Any] = STAGES[task.stage].run(task.spec, inputs, attempt, report, **options)
        artifact = attempt.commit(meta=meta)
    if task.stage == train.STAGE:
        state.clear()
    return artifact
