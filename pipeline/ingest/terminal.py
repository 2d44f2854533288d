"""The terminal distribution of a degradation: what D(x_0, 1) of the training images looks like.

Where every image ends in the centre, x_T is the centre; where it ends in a flat colour, colours get a Gaussian; else
x_T can only come from the training images themselves. Fitted on D(x_0, 1), not on the images: the colour that is left
is not always the image's own mean.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pipeline.baselines.system import read_statistics
from pipeline.config import DataError, Spec, union
from pipeline.diffusion.processes import PROCESSES, Process, build_process
from pipeline.diffusion.processes.terminal.flat import num_channels
from pipeline.diffusion.statistics import Statistics
from pipeline.ingest.stage import AttemptFiles, ShardMap, one_by_one
from pipeline.shards.index import ShardEntry, ShardFiles, SplitIndex, split_index
from pipeline.shards.pixels import to_float
from pipeline.shards.reader import read_shard

STAGE = "terminal"
STAGE_VERSION = 1

CONSTANT = 1e-9
"""Largest distance from the centre, on the [-1, 1] scale, that is rounding."""

FLAT_SHARE = 0.01
"""Largest share of the images' own rms contrast that may be left in what counts as a flat colour.

Heat dissipation to sigma = N leaves 0.0072 of the lowest frequency, to sigma = N/2 already 0.29.
"""

_CHUNK_ELEMENTS = 2**22

_LOG = logging.getLogger(__name__)


class TerminalFit(Spec):
    """The process whose end is fitted."""

    process: union(PROCESSES)  # a degradation with levels


@dataclass(frozen=True)
class TerminalJob:
    """One shard to be summed."""

    artifact: ShardFiles
    index: SplitIndex
    entry: ShardEntry
    first_index: int
    spec: TerminalFit
    statistics: Statistics | None


@dataclass(frozen=True)
class TerminalMoments:
    """Sums over D(x_0, 1) of a set of images, as one part per shard, so that they merge in any order to the same bits.

    Attributes:
        counts: images of each part.
        sums: for each part the flattened sums `(C + C^2 + 2,)` float64: colours, their outer products, squared
            deviation from the own colour (of all pixels) after and before degradation.
        distance: largest distance of any pixel from the centre.
    """

    counts: tuple[int, ...]
    sums: tuple[tuple[float, ...], ...]
    distance: float

    def merged(self, other: "TerminalMoments") -> "TerminalMoments":
        """The sums of both sets of images."""
        return TerminalMoments(self.counts + other.counts, self.sums + other.sums, max(self.distance, other.distance))

    def means(self) -> list[float]:
        """`sums` over all parts divided by the number of images; the sum is exactly rounded."""
        count = sum(self.counts)
        return [math.fsum(part) / count for part in zip(*self.sums, strict=True)]


def terminal_moments(images: torch.Tensor, process: Process) -> TerminalMoments:
    """The sums over `images` `(n, *shape)`, data space, as one part."""
    channels = num_channels(process.shape)
    totals = np.zeros(channels + channels**2 + 2)
    distance = 0.0
    for x in images.split(max(1, _CHUNK_ELEMENTS // process.dim)):
        c_T = process.degrade(process.to_components(x.to(torch.float64)), 1.0)
        last = process.to_data(c_T)
        distance = max(distance, float((last - process.to_data(torch.zeros_like(c_T[:1]))).abs().max()))
        colours, contrast = _colours(last, channels)
        products = colours[:, :, None] * colours[:, None, :]
        own_contrast = _colours(x.to(torch.float64), channels)[1]
        parts = (colours.sum(0), products.sum(0).flatten(), contrast[None], own_contrast[None])
        totals += torch.cat(parts).numpy()
    return TerminalMoments((len(images),), (tuple(totals.tolist()),), distance)


def _colours(x: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean colour of each image `(n, C)`, and the squared deviation of all pixels from it, summed."""
    pixels = x.reshape(len(x), channels, -1)
    colours = pixels.mean(dim=2)
    return colours, (pixels - colours[:, :, None]).square().sum()


def shard_terminal_moments(job: TerminalJob) -> TerminalMoments:
    """Moments of one shard."""
    path = job.artifact.path(job.entry.name)
    samples = read_shard(path, job.entry, index=job.index, first_index=job.first_index)
    process = build_process(job.spec.process, job.index.shape, job.statistics)
    with threadpool_limits(limits=1):
        return terminal_moments(torch.from_numpy(to_float(samples.images, job.index.quantisation)), process)


def run(
    spec: TerminalFit,
    inputs: dict[str, ShardFiles],
    attempt: AttemptFiles,
    progress: Callable[[int, int], None],
    *,
    shard_map: ShardMap = one_by_one,
) -> dict[str, Any]:
    """The meta of the terminal artifact; it has no files.

    Args:
        spec: the process.
        inputs: `dataset`, the artifact of ingest; `statistics` for a process that needs the data mean.
        attempt: receives nothing.
        progress: called with (shards done, shards in all).
        shard_map: how the shards are spread; their order does not matter.

    Returns:
        kind: `zeros`, `flat_colour` or `training_images`, or `gaussian` for a process that is no degradation. count.
        mean (C,) and covariance (C, C) (divided by the count) of the colours of D(x_0, 1), is_constant: all of them
        are the centre; flatness: rms deviation of a pixel from its image's colour, contrast: the same before
        degradation; all on the [-1, 1] scale.

    Raises:
        DataError: a damaged shard, or no training samples.
    """
    artifact = inputs["dataset"]
    index = split_index(artifact, "train")
    if index.count < 1:
        raise DataError(f"data set {artifact.meta['name']}: no training samples to fit the terminal distribution")
    statistics = _statistics(spec, inputs.get("statistics"))
    if not build_process(spec.process, index.shape, statistics).is_degradation:
        return {"kind": "gaussian", "count": index.count}
    jobs = _jobs(spec, artifact, index, statistics)
    merged: TerminalMoments | None = None
    progress(0, len(jobs))
    for done, part in enumerate(shard_map(shard_terminal_moments, jobs), start=1):
        merged = part if merged is None else merged.merged(part)
        progress(done, len(jobs))
    assert merged is not None
    meta = _summary(merged, index)
    _LOG.info("terminal dataset=%s kind=%s count=%d", artifact.meta["name"], meta["kind"], index.count)
    return meta


def _statistics(spec: TerminalFit, artifact: Any) -> Statistics | None:
    """Mean and, for PCA, components of the data; variances play no part in a degradation."""
    if artifact is None:
        return None
    return read_statistics(artifact, "pca" if getattr(spec.process, "basis", "pixel") == "pca" else "pixel")


def _jobs(
    spec: TerminalFit, artifact: ShardFiles, index: SplitIndex, statistics: Statistics | None
) -> list[TerminalJob]:
    jobs: list[TerminalJob] = []
    first_index = 0
    for entry in index.shards:
        jobs.append(TerminalJob(artifact, index, entry, first_index, spec, statistics))
        first_index += entry.samples
    return jobs


def _summary(moments: TerminalMoments, index: SplitIndex) -> dict[str, Any]:
    channels, dim = num_channels(index.shape), math.prod(index.shape)
    means = np.array(moments.means())
    if not np.isfinite(means).all():
        raise DataError("terminal: degraded samples are not finite; the samples are too large or not numbers")
    mean = means[:channels]
    products = means[channels:-2].reshape(channels, channels)
    covariance = (products + products.T) / 2 - np.multiply.outer(mean, mean)
    flatness, contrast = (math.sqrt(max(value, 0.0) / dim) for value in means[-2:])
    is_constant = moments.distance <= CONSTANT
    is_flat = flatness <= FLAT_SHARE * contrast
    kind = "zeros" if is_constant else "flat_colour" if is_flat else "training_images"
    return {
        "kind": kind,
        "count": index.count,
        "mean": mean.tolist(),
        "covariance": covariance.tolist(),
        "is_constant": is_constant,
        "flatness": flatness,
        "contrast": contrast,
    }
