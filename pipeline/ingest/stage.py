"""Ingest: a source of any kind becomes verified shards with an index; shards are made one by one or in parallel."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.config import DataError
from pipeline.ingest.sources import Source, SourceSpec, Split, source_digest
from pipeline.ingest.sources.base import SPLITS
from pipeline.shards.index import ShardEntry, ShardFiles
from pipeline.shards.writer import encode_shard

STAGE = "ingest"
STAGE_VERSION = 1

_LOG = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")


class AttemptFiles(Protocol):
    """What a stage needs of a store attempt: local files to write."""

    def path(self, name: str) -> Path: ...


class ShardMap(Protocol):
    """Applies a function to jobs, anywhere, and gives the results in the order of the jobs."""

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterable[Result]: ...


def one_by_one(function: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterator[Result]:
    """The map of a single process."""
    return map(function, jobs)


@dataclass(frozen=True)
class ShardJob:
    """Samples [start, stop) of a split as shard `number`."""

    spec: SourceSpec
    split: Split
    number: int
    start: int
    stop: int


def make_shard(job: ShardJob) -> tuple[ShardEntry, bytes]:
    """Read, decode and encode one shard; equal jobs give equal bytes."""
    source = _opened(job.spec)
    samples = source.read(job.split, job.start, job.stop)
    if len(samples.images) != job.stop - job.start:
        raise DataError(f"data set {job.spec.name}: {job.split} gave {len(samples.images)} of {job.stop - job.start}")
    return encode_shard(
        samples.images,
        samples.labels,
        split=job.split,
        number=job.number,
        first_index=job.start,
        samples_per_block=job.spec.samples_per_block,
    )


def run(
    spec: SourceSpec,
    inputs: dict[str, ShardFiles],
    attempt: AttemptFiles,
    progress: Callable[[int, int], None],
    *,
    shard_map: ShardMap = one_by_one,
) -> dict[str, Any]:
    """Write all shards of a pinned source and return the meta of the data set artifact.

    Args:
        spec: source with an absolute uri, see `pin`; its digest is checked again before anything is read.
        inputs: none.
        attempt: receives the shards.
        progress: called with (shards done, shards in all).
        shard_map: how the shards are spread.

    Returns:
        name, shape, num_classes, class_names, quantisation, samples_per_block, and for each split its count and
        shards (name, samples, bytes, sha256); `moments` (mean, variances) of a source that declares them.

    Raises:
        DataError: anything wrong with the source: which file, where, what to do.
    """
    assert not inputs, "ingest has no input artifacts"
    source_digest(spec, Path.cwd())
    source = _opened(spec)
    jobs = _jobs(spec, source)
    if not any(job.split == "train" for job in jobs):
        raise DataError(f"data set {spec.name}: {spec.uri} has no training samples")
    entries: dict[str, list[ShardEntry]] = {split: [] for split in SPLITS}
    progress(0, len(jobs))
    for done, (job, (entry, payload)) in enumerate(zip(jobs, shard_map(make_shard, jobs), strict=True), start=1):
        attempt.path(entry.name).write_bytes(payload)
        entries[job.split].append(entry)
        progress(done, len(jobs))
    _LOG.info("ingested dataset=%s num_shards=%d", spec.name, len(jobs))
    declared = {"moments": source.declared_moments, "mixture": source.declared_mixture}
    return {
        "name": spec.name,
        "shape": list(source.shape),
        "num_classes": None if source.class_names is None else len(source.class_names),
        "class_names": None if source.class_names is None else list(source.class_names),
        "quantisation": source.quantisation,
        "samples_per_block": spec.samples_per_block,
        "splits": {
            split: {"count": sum(entry.samples for entry in part), "shards": [entry.to_json() for entry in part]}
            for split, part in entries.items()
        },
        **{name: law.to_json() for name, law in declared.items() if law is not None},
    }


def _jobs(spec: SourceSpec, source: Source) -> list[ShardJob]:
    limits = {"train": spec.max_train, "test": spec.max_test}
    jobs: list[ShardJob] = []
    for split in SPLITS:
        limit, available = limits[split], source.count(split)
        count = available if limit is None else min(limit, available)
        for number, start in enumerate(range(0, count, spec.samples_per_shard)):
            jobs.append(ShardJob(spec, split, number, start, min(start + spec.samples_per_shard, count)))
    return jobs


_OPEN: OrderedDict[str, Source] = OrderedDict()


def _opened(spec: SourceSpec) -> Source:
    """The opened source, checked on this host and kept for the next shard."""
    key = spec.model_dump_json()
    if key not in _OPEN:
        source_digest(spec, Path.cwd())
        _OPEN[key] = spec.opened()
        while len(_OPEN) > 2:
            _OPEN.popitem(last=False)
    return _OPEN[key]
