"""The result stage: everything measured about one cell, merged in a fixed order into one row."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from pipeline.baselines.threads import single_thread
from pipeline.config import Spec
from pipeline.evaluate import scores
from pipeline.evaluate.feature_sets import joined
from pipeline.evaluate.measures import Measured, NetSets, SampleMetric, measure_features, measure_memorisation
from pipeline.store import Artifact, Attempt

STAGE = "result"
STAGE_VERSION = 3

Score = Literal["nll", "elbo", "vlb"]
Metric = Literal["fd", SampleMetric, "points", "nll", "elbo", "vlb", "moments"]

SCORES: dict[Score, str] = {"nll": "likelihood", "elbo": "elbo", "vlb": "vlb"}
"""Metrics of single held-out images, and the inputs that hold them."""

COLUMNS = {"nll": "nll_bpd", "elbo": "elbo_bpd", "vlb": "vlb_bpd", "moments": "w2"}
"""Under which name the value of a metric, or the reason why it has none, stands in a row; others by their own."""


class ResultSpec(Spec):
    """One row: what is measured, and what cannot be, with the reason. The plan knows which axes a row stands for."""

    metrics: tuple[Metric, ...] = ("fd", "kid", "precision_recall", "diversity", "nll")
    nets: tuple[str, ...] = ()  # feature nets in order; metrics that name none are taken in the first one
    num_images: PositiveInt  # asked for; the row says how many there were
    num_rows: PositiveInt = 10_000  # images per side for kernel and neighbour metrics
    absent: dict[Metric, str] = Field(default={})  # reasons known before anything ran


def run(spec: ResultSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Any = None) -> dict[str, Any]:
    """Write `result.json` (the row) and `result.npz` (pseudo-values and per-image likelihoods, for paired comparison).

    Args:
        spec: the row.
        inputs: of every net `features.<net>.<k>`, `reference.<net>.<k>` (training split), and, where they are needed,
            `held_out.<net>.<k>` (test split) and `ladder.<net>`; `nearest.<k>` and `nearest_held_out.<k>`;
            `likelihood.<k>`, `elbo.<k>` and `vlb.<k>` blocks; `moments`. Their order does not matter: blocks are
            merged by image index.
        attempt: where the files go.
        progress: not used; the stage is one step.

    Returns:
        The row.
    """
    del progress
    found = Measured()
    found.reasons |= {COLUMNS.get(metric, metric): reason for metric, reason in spec.absent.items()}
    found.protocol["num_images_asked"] = spec.num_images
    wanted = [metric for metric in spec.metrics if metric not in spec.absent]
    with single_thread():
        nets = [_sets(inputs, net) for net in spec.nets]
        if nets:
            _merge(found, measure_features(wanted, nets, num_rows=spec.num_rows))
            _add_known_answers(found, inputs, spec.nets)
            count = nets[0].fake.n
            if count < spec.num_images:
                found.reasons["num_images"] = f"{spec.num_images} images were asked for, the source has {count}"
        if "memorisation" in wanted:
            measure_memorisation(found, *(_named(inputs, name) for name in ("nearest", "nearest_held_out")))
        for name, prefix in SCORES.items():
            if name in wanted:
                _measure_scores(found, name, _named(inputs, prefix))
        if "moments" in wanted:
            _measure_moments(found, inputs.get("moments"))
    assert all(np.isfinite(value) for value in found.metrics.values())
    row = {"metrics": found.metrics, "reasons": found.reasons, "protocol": found.protocol}
    attempt.path("result.json").write_text(json.dumps(row, indent=1, sort_keys=True, allow_nan=False) + "\n")
    np.savez(attempt.path("result.npz"), allow_pickle=False, **found.arrays)
    return row


def _merge(found: Measured, more: Measured) -> None:
    found.metrics |= more.metrics
    found.reasons |= more.reasons
    found.protocol |= more.protocol
    found.arrays |= more.arrays


def _sets(inputs: Mapping[str, Artifact], net: str) -> NetSets:
    held_out = _named(inputs, f"held_out.{net}")
    return NetSets(
        joined(_named(inputs, f"features.{net}")),
        joined(_named(inputs, f"reference.{net}")),
        joined(held_out) if held_out else None,
    )


def _named(inputs: Mapping[str, Artifact], prefix: str) -> list[Artifact]:
    return [artifact for name, artifact in sorted(inputs.items()) if name.startswith(f"{prefix}.")]


def _add_known_answers(found: Measured, inputs: Mapping[str, Artifact], nets: Sequence[str]) -> None:
    """The ladder of every net that has one, so that a row says how far its net can be trusted."""
    ladders = {net: inputs[f"ladder.{net}"] for net in nets if f"ladder.{net}" in inputs}
    keys = ("ladder", "is_increasing", "held_out_accuracy")
    if ladders:
        found.protocol["known_answers"] = {
            net: {key: artifact.meta[key] for key in keys if key in artifact.meta} for net, artifact in ladders.items()
        }


def _measure_scores(found: Measured, name: Score, blocks: Sequence[Artifact]) -> None:
    joined_scores = scores.joined(blocks)
    if isinstance(joined_scores, str):
        found.reasons[COLUMNS[name]] = joined_scores
        return
    found.metrics |= joined_scores.summary(name)
    found.arrays |= joined_scores.arrays(name)
    if name == "nll":
        found.protocol["nll"] = joined_scores.protocol("split", "seed", "num_probes", "nfe", "kind")
        return
    measured, missing = scores.bound_metrics(joined_scores, prefix="" if name == "elbo" else f"{name}_")
    found.metrics |= measured
    found.reasons |= missing
    keys = ("split", "seed", "noise_seed", "num_times", "log_snr_data", "log_snr_prior")
    of_levels = () if name == "elbo" else ("num_levels", "decoder", "variance", "num_probes", "start_noise", "clip")
    found.protocol[name] = joined_scores.protocol(*keys, *of_levels)


def _measure_moments(found: Measured, artifact: Artifact | None) -> None:
    """Squared 2-Wasserstein distance of the output's moments to the data's, from the moments stage; and evaluations."""
    if artifact is None or artifact.meta.get("absent"):
        found.reasons["w2"] = "no moments were asked for" if artifact is None else str(artifact.meta["absent"])
        return
    found.metrics["w2"] = float(artifact.meta["w2"])
    if artifact.meta.get("nfe"):
        found.metrics["nfe"] = float(artifact.meta["nfe"])
    found.protocol["moments"] = {key: artifact.meta[key] for key in ("method", "num_images")}
