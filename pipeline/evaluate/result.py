"""The result stage: everything measured about one cell, merged in a fixed order into one row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from pipeline.baselines.threads import single_thread
from pipeline.config import DataError, Spec
from pipeline.evaluate import scores
from pipeline.evaluate.diversity import Diversity, diversity_metrics
from pipeline.evaluate.frechet import frechet_distance
from pipeline.evaluate.jackknife import NUM_BLOCKS, Jackknife, jackknife
from pipeline.evaluate.neighbours import kernel_distance, precision_recall
from pipeline.evaluate.statistics import FeatureStatistics, merged, unpacked
from pipeline.store import Artifact, Attempt

STAGE = "result"
STAGE_VERSION = 2

Score = Literal["nll", "elbo"]
Metric = Literal["fd", "kid", "precision_recall", "diversity", "nll", "elbo", "moments"]
NEIGHBOURS = 3

SCORES: dict[Score, str] = {"nll": "likelihood", "elbo": "elbo"}
"""Metrics of single held-out images, and the inputs that hold them."""

COLUMNS = {"nll": "nll_bpd", "elbo": "elbo_bpd", "moments": "w2"}
"""Under which name the value of a metric, or the reason why it has none, stands in a row; others by their own."""


class ResultSpec(Spec):
    """One row: what is measured, and what cannot be, with the reason. The plan knows which axes a row stands for."""

    metrics: tuple[Metric, ...] = ("fd", "kid", "precision_recall", "diversity", "nll")
    num_images: PositiveInt  # asked for; the row says how many there were
    num_rows: PositiveInt = 5000  # feature rows per side for kernel and neighbour metrics
    absent: dict[Metric, str] = Field(default={})  # reasons known before anything ran


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of one set of images, blocks joined in order of their image indices."""

    net: str
    net_sha256: str
    groups: Sequence[FeatureStatistics]
    rows: NDArray[np.float32]
    diversity: Diversity
    source: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Number of images."""
        return sum(group.n for group in self.groups)


def run(spec: ResultSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Any = None) -> dict[str, Any]:
    """Write `result.json` (the row) and `result.npz` (pseudo-values and per-image likelihoods, for paired comparison).

    Args:
        spec: the row.
        inputs: `reference` (features of the training split); `features.<k>` blocks; `likelihood.<k>` and `elbo.<k>`
            blocks; `moments`. Their order does not matter: blocks are merged by image index.
        attempt: where the files go.
        progress: not used; the stage is one step.

    Returns:
        The row.
    """
    del progress
    metrics: dict[str, float] = {}
    reasons = {COLUMNS.get(metric, metric): reason for metric, reason in spec.absent.items()}
    protocol: dict[str, Any] = {"num_images_asked": spec.num_images}
    arrays: dict[str, NDArray[Any]] = {}
    with single_thread():
        blocks = _named(inputs, "features")
        if blocks:
            fake, reference = joined(blocks), joined([inputs["reference"]])
            _check_same_net(fake, reference)
            protocol |= _protocol(fake, reference)
            if fake.n < spec.num_images:
                reasons["num_images"] = f"{spec.num_images} images were asked for, the source has {fake.n}"
            if "diversity" in spec.metrics and "diversity" not in spec.absent:
                found = diversity_metrics(fake.diversity, reference.diversity, suffix=metric_name("", fake.net))
                metrics, reasons = metrics | found[0], reasons | found[1]
                protocol["diversity"] = found[2]
            _measure_features(spec, fake, reference, metrics=metrics, reasons=reasons, arrays=arrays)
        for name, prefix in SCORES.items():
            if name in spec.metrics and name not in spec.absent:
                blocks = _named(inputs, prefix)
                _measure_scores(name, blocks, protocol, metrics=metrics, reasons=reasons, arrays=arrays)
        if "moments" in spec.metrics and "moments" not in spec.absent:
            _measure_moments(inputs.get("moments"), protocol, metrics=metrics, reasons=reasons)
    assert all(np.isfinite(value) for value in metrics.values())
    row = {"metrics": metrics, "reasons": reasons, "protocol": protocol}
    attempt.path("result.json").write_text(json.dumps(row, indent=1, sort_keys=True, allow_nan=False) + "\n")
    np.savez(attempt.path("result.npz"), allow_pickle=False, **arrays)
    return row


def metric_name(family: str, net: str) -> str:
    """Name of a feature metric with its net: `fid` and plain `kid` belong to the Inception net alone."""
    if net == "fid":
        return {"fd": "fid"}.get(family, family)
    return net if family == "fd" else f"{family}_{net.removeprefix('fd_')}"


def joined(blocks: Sequence[Artifact]) -> FeatureSet:
    """Feature blocks as one set in order of image indices; empty blocks are left out.

    Raises:
        DataError: blocks of different nets, or image ranges that overlap or leave gaps.
    """
    blocks = sorted(blocks, key=lambda block: int(block.meta["first"]))
    nets = {(str(block.meta["net"]), str(block.meta["net_sha256"])) for block in blocks}
    if len(nets) != 1:
        raise DataError(f"feature blocks come from {len(nets)} different nets; their statistics cannot be merged")
    groups: list[FeatureStatistics] = []
    rows: list[NDArray[np.float32]] = []
    diversity: list[Diversity] = []
    expected = int(blocks[0].meta["first"])
    for block in blocks:
        count, first = int(block.meta["count"]), int(block.meta["first"])
        if count == 0:
            continue
        if first != expected:
            raise DataError(f"feature blocks do not join: images {expected} to {first - 1} are missing or doubled")
        expected = first + count
        with np.load(block.path("features.npz"), allow_pickle=False) as stored:
            groups += unpacked(stored["count"], stored["mean"], stored["scatter"])
            rows.append(stored["rows"])
            diversity.append(Diversity.unpacked(stored))
    if not groups:
        raise DataError("the feature blocks hold no images")
    ((net, sha256),) = nets
    source = dict(blocks[0].meta["source"])
    return FeatureSet(net, sha256, groups, np.concatenate(rows), Diversity.joined(diversity), source)


def _named(inputs: Mapping[str, Artifact], prefix: str) -> list[Artifact]:
    return [artifact for name, artifact in sorted(inputs.items()) if name.startswith(f"{prefix}.")]


def _check_same_net(fake: FeatureSet, reference: FeatureSet) -> None:
    if (fake.net, fake.net_sha256) != (reference.net, reference.net_sha256):
        raise DataError(
            f"features of {fake.net} ({fake.net_sha256[:12]}) have no distance to a reference of "
            f"{reference.net} ({reference.net_sha256[:12]}): they come from different nets"
        )


def _protocol(fake: FeatureSet, reference: FeatureSet) -> dict[str, Any]:
    """Without these fields a distance is not comparable."""
    return {
        "net": fake.net,
        "net_sha256": fake.net_sha256,
        "num_images": fake.n,
        "seed": fake.source.get("seed"),
        "method": fake.source.get("method"),
        "reference": {**reference.source, "num_images": reference.n},
        "jackknife_blocks": NUM_BLOCKS,
        "jackknife_group": max(group.n for group in fake.groups),
        "metric_version": STAGE_VERSION,
    }


def _measure_features(
    spec: ResultSpec,
    fake: FeatureSet,
    reference: FeatureSet,
    *,
    metrics: dict[str, float],
    reasons: dict[str, str],
    arrays: dict[str, NDArray[Any]],
) -> None:
    nfe = (fake.source.get("method") or {}).get("nfe")
    if nfe is not None:
        metrics["nfe"] = float(nfe)
    if "fd" in spec.metrics:
        name = metric_name("fd", fake.net)
        total = merged(reference.groups)
        if fake.n < 2:
            reasons[name] = "a covariance needs at least two images"
        elif len(fake.groups) < NUM_BLOCKS:
            metrics[name] = frechet_distance(merged(fake.groups), total)
            reasons[f"{name}_se"] = f"the jackknife needs {NUM_BLOCKS} groups of images, there are {len(fake.groups)}"
        else:
            knife = jackknife(fake.groups, lambda part: frechet_distance(part, total))
            metrics |= _with_error(name, knife)
            arrays["fd_pseudo_values"] = knife.pseudo_values
    real_rows, fake_rows = reference.rows[: spec.num_rows], fake.rows[: spec.num_rows]
    if min(len(real_rows), len(fake_rows)) <= NEIGHBOURS:
        for family in ("kid", "precision", "recall"):
            reasons[metric_name(family, fake.net)] = "too few feature rows were kept"
        return
    if "kid" in spec.metrics:
        metrics[metric_name("kid", fake.net)] = kernel_distance(real_rows, fake_rows)
    if "precision_recall" in spec.metrics:
        both = precision_recall(real_rows, fake_rows, k=NEIGHBOURS)
        metrics[metric_name("precision", fake.net)] = both.precision
        metrics[metric_name("recall", fake.net)] = both.recall


def _with_error(name: str, knife: Jackknife) -> dict[str, float]:
    low, high = knife.interval()
    return {
        name: knife.value,
        f"{name}_jk": knife.corrected,
        f"{name}_se": knife.se,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def _measure_scores(
    name: Score,
    blocks: Sequence[Artifact],
    protocol: dict[str, Any],
    *,
    metrics: dict[str, float],
    reasons: dict[str, str],
    arrays: dict[str, NDArray[Any]],
) -> None:
    found = scores.joined(blocks)
    if isinstance(found, str):
        reasons[COLUMNS[name]] = found
        return
    metrics |= found.summary(name)
    arrays |= found.arrays(name)
    if name == "nll":
        protocol["nll"] = found.protocol("split", "seed", "num_probes", "nfe", "kind")
        return
    measured, missing = scores.bound_metrics(found)
    metrics |= measured
    reasons |= missing
    protocol["elbo"] = found.protocol("split", "seed", "noise_seed", "num_times", "log_snr_data", "log_snr_prior")


def _measure_moments(
    artifact: Artifact | None, protocol: dict[str, Any], *, metrics: dict[str, float], reasons: dict[str, str]
) -> None:
    """Squared 2-Wasserstein distance of the output's moments to the data's, from the moments stage; and evaluations."""
    if artifact is None or artifact.meta.get("absent"):
        reasons["w2"] = "no moments were asked for" if artifact is None else str(artifact.meta["absent"])
        return
    metrics["w2"] = float(artifact.meta["w2"])
    if artifact.meta.get("nfe"):
        metrics["nfe"] = float(artifact.meta["nfe"])
    protocol["moments"] = {key: artifact.meta[key] for key in ("method", "num_images")}
