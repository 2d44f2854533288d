"""Statistics of a data set: mean, covariance, principal components, variances per basis, Gaussian likelihood.

All moments come from the training split, merged shard by shard. The variances hold the data's own resolution: the
uniform dequantisation noise step^2 / 12 is added to them (step = 2 / q), which also keeps rank-deficient data positive.
Points whose law is known (the data set's meta declares `moments`) have the moments of that law, exactly.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pipeline.config import DataError, Spec, neutral
from pipeline.diffusion.bases import build_basis
from pipeline.ingest.moments import ComponentMoments, Moments, component_moments_of, moments_of
from pipeline.ingest.stage import AttemptFiles, ShardMap, one_by_one
from pipeline.shards.index import ShardEntry, ShardFiles, SplitIndex, split_index
from pipeline.shards.reader import read_shard

STAGE = "statistics"
STAGE_VERSION = 1
FILE = "statistics.npz"
BASES = ("pixel", "dct", "haar", "fourier")
RELATIVE_FLOOR = 1e-12  # smallest variance of points, as a share of the largest

_LOG = logging.getLogger(__name__)


class StatisticsSpec(Spec):
    """What is computed; above `covariance_limit` dimensions only variances."""

    covariance_limit: int = neutral(4096, ge=1)


@dataclass(frozen=True)
class StatisticsJob:
    """One shard to be summed."""

    artifact: ShardFiles
    index: SplitIndex
    entry: ShardEntry
    first_index: int
    is_full: bool
    bases: tuple[str, ...]


def shard_moments(job: StatisticsJob) -> tuple[Moments, dict[str, ComponentMoments]]:
    """Moments of one shard, and those of its components where no covariance is kept."""
    index = job.index
    path = job.artifact.path(job.entry.name)
    samples = read_shard(path, job.entry, index=index, first_index=job.first_index)
    moments = moments_of(
        samples.images,
        samples.labels,
        quantisation=index.quantisation,
        num_classes=index.num_classes,
        is_full=job.is_full,
    )
    components = {
        basis: component_moments_of(samples.images, basis=basis, shape=index.shape, quantisation=index.quantisation)
        for basis in job.bases
    }
    return moments, components


def run(
    spec: StatisticsSpec,
    inputs: dict[str, ShardFiles],
    attempt: AttemptFiles,
    progress: Callable[[int, int], None],
    *,
    shard_map: ShardMap = one_by_one,
) -> dict[str, Any]:
    """Write `statistics.npz` and return the meta of the statistics artifact.

    The file holds, float64: `mean` (D,), `covariance` (D, D), `pca_components` (D, D) rows by falling variance, and
    `variances_<basis>` (D,) for pca, pixel, dct, haar and fourier; all variances with the floor. Without covariance
    (D above the limit) those of pca are absent. `class_counts` is int64. Where the data set declares its moments, mean
    and variances are those, to the last bit and without a floor; no shard is read.

    Args:
        spec: what to compute.
        inputs: `dataset`, the artifact of ingest.
        attempt: receives the file.
        progress: called with (shards done, shards in all).
        shard_map: how the shards are spread; results are merged in shard order.

    Returns:
        count, test_count, dim, floor, bases, and, in bits per dimension, `gaussian_nll_train_bpd` and
        `gaussian_nll_bpd` (test split); None with `gaussian_nll_absent` where there is none.

    Raises:
        DataError: a damaged shard, or fewer than two samples.
    """
    artifact = inputs["dataset"]
    train, test = split_index(artifact, "train"), split_index(artifact, "test")
    if train.count < 2:
        raise DataError(f"data set {artifact.meta['name']}: {train.count} training samples; statistics need two")
    dim = math.prod(train.shape)
    with threadpool_limits(limits=1):
        if "moments" in artifact.meta:
            arrays, meta = _declared(artifact.meta["moments"], index=train)
        else:
            is_full = dim <= spec.covariance_limit
            jobs = [job for index in (train, test) for job in _jobs(artifact, index, is_full=is_full)]
            merged, components = _merged(jobs, shard_map, progress)
            arrays, meta = _summary(merged["train"], merged.get("test"), components, index=train)
    _write(attempt, arrays)
    _LOG.info("statistics dataset=%s dim=%d count=%d", artifact.meta["name"], dim, train.count)
    return {"count": train.count, "test_count": test.count, "dim": dim, **meta}


def _jobs(artifact: ShardFiles, index: SplitIndex, *, is_full: bool) -> list[StatisticsJob]:
    bases = () if is_full or index.split != "train" else BASES[1:]
    jobs: list[StatisticsJob] = []
    first_index = 0
    for entry in index.shards:
        jobs.append(StatisticsJob(artifact, index, entry, first_index, is_full, bases))
        first_index += entry.samples
    return jobs


def _merged(
    jobs: list[StatisticsJob], shard_map: ShardMap, progress: Callable[[int, int], None]
) -> tuple[dict[str, Moments], dict[str, ComponentMoments]]:
    """Moments by split, and those of the components of each basis, merged in the order of the jobs."""
    merged: dict[str, Moments] = {}
    components: dict[str, ComponentMoments] = {}
    progress(0, len(jobs))
    for done, (job, result) in enumerate(zip(jobs, shard_map(shard_moments, jobs), strict=True), start=1):
        split, (moments, parts) = job.index.split, result
        merged[split] = merged[split].merged(moments) if split in merged else moments
        for basis, part in parts.items():
            components[basis] = components[basis].merged(part) if basis in components else part
        progress(done, len(jobs))
    return merged, components


def _declared(
    moments: Mapping[str, Sequence[float]], *, index: SplitIndex
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and meta of a known law with independent coordinates; its components are its sorted coordinates."""
    mean, variances = (np.array(moments[name], np.float64) for name in ("mean", "variances"))
    if not mean.shape == variances.shape == (math.prod(index.shape),) or not (variances > 0).all():
        raise DataError("statistics: the declared mean and variances do not fit the samples, or are not positive")
    covariance = np.diag(variances)
    order = np.argsort(-variances, kind="stable")
    arrays = {
        "mean": mean,
        "covariance": covariance,
        "pca_components": np.eye(len(mean))[order],
        "variances_pca": variances[order],
        "variances_pixel": variances,
    }
    arrays |= {f"variances_{basis}": basis_variances(covariance, basis, index.shape) for basis in BASES[1:]}
    entropy = gaussian_nll_bpd(variances, np.ones_like(variances), None)
    return arrays, {
        "floor": 0.0,
        "bases": [*BASES, "pca"],
        "gaussian_nll_bpd": entropy,
        "gaussian_nll_train_bpd": entropy,
    }


def _summary(
    train: Moments, test: Moments | None, components: dict[str, ComponentMoments], *, index: SplitIndex
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    quantisation = index.quantisation
    mean, pixel = train.mean(quantisation), train.variances(quantisation)
    floor = (2.0 / quantisation) ** 2 / 12 if quantisation is not None else RELATIVE_FLOOR * float(pixel.max())
    if floor == 0.0:
        raise DataError(f"all training samples of {index.count} are equal; they have no variance")
    arrays = {"mean": mean, "variances_pixel": pixel + floor}
    meta: dict[str, Any] = {"floor": floor, "gaussian_nll_bpd": None, "gaussian_nll_train_bpd": None}
    if train.classes is not None:
        arrays["class_counts"] = train.classes.astype(np.int64)
    if train.products is None:
        arrays |= {f"variances_{basis}": part.variances() + floor for basis, part in components.items()}
        limit = f"dimension {len(mean)} is above the covariance limit"
        return arrays, {**meta, "bases": [*BASES], "gaussian_nll_absent": limit}
    covariance = train.covariance(quantisation) + floor * np.eye(len(mean))
    variances, vectors = principal_components(covariance, smallest=floor)
    arrays |= {"covariance": covariance, "pca_components": vectors, "variances_pca": variances}
    arrays |= {f"variances_{basis}": basis_variances(covariance, basis, index.shape) for basis in BASES[1:]}
    meta["bases"] = [*BASES, "pca"]
    meta["gaussian_nll_train_bpd"] = gaussian_nll_bpd(variances, np.ones_like(variances), quantisation)
    if test is not None:
        deviation = vectors @ (test.mean(quantisation) - mean)
        spread = np.einsum("ij,ij->i", vectors @ test.covariance(quantisation), vectors)
        noise = floor if quantisation is not None else 0.0
        meta["gaussian_nll_bpd"] = gaussian_nll_bpd(
            variances, (spread + np.square(deviation) + noise) / variances, quantisation
        )
    return arrays, meta


def principal_components(covariance: np.ndarray, *, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues `(D,)` by falling value, at least `smallest`, and eigenvectors as rows `(D, D)`.

    The largest entry of every row (the first of equals) is positive. The caller fixes the number of BLAS threads,
    because it changes last bits.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    rows = vectors[:, ::-1].T
    largest = np.abs(rows).argmax(axis=1)
    signs = np.where(rows[np.arange(len(rows)), largest] < 0, -1.0, 1.0)
    return np.maximum(values[::-1], smallest), np.ascontiguousarray(rows * signs[:, None])


def basis_variances(covariance: np.ndarray, basis: str, shape: tuple[int, ...]) -> np.ndarray:
    """Diagonal of B C B^T, `(D,)`, for an orthonormal basis that is not fitted."""
    built = build_basis(basis, shape)
    half = built.to_components(torch.from_numpy(covariance).reshape(-1, *shape))
    both = built.to_components(half.T.contiguous().reshape(-1, *shape))
    return both.diagonal().numpy().copy()


def gaussian_nll_bpd(variances: np.ndarray, distances: np.ndarray, quantisation: int | None) -> float:
    """Expected negative log-likelihood under a Gaussian, in bits per dimension.

    1/2 (log 2 pi v_i + d_i) averaged over components and divided by ln 2, plus log2(q / 2), which turns the density on
    [-1, 1] into one of levels. Dequantisation noise is averaged exactly, not drawn.

    Args:
        variances: `(D,)` of the Gaussian.
        distances: `(D,)`, mean squared distance of the data to the mean, in units of the variance.
        quantisation: number of levels q; None leaves out the last term.
    """
    nats = 0.5 * float(np.mean(np.log(2.0 * math.pi * variances) + distances))
    offset = 0.0 if quantisation is None else math.log2(quantisation / 2.0)
    return nats / math.log(2.0) + offset


def _write(attempt: AttemptFiles, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"statistics: {name} is not finite; the samples are too large or not numbers")
    with attempt.path(FILE).open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(sorted(arrays.items())))
