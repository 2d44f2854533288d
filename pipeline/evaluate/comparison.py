"""Results read back, and compared pair by pair: which cells cannot be told from the best one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.config import DataError
from pipeline.evaluate.jackknife import Difference, mean_difference
from pipeline.evaluate.statistics import Array
from pipeline.store import Artifact

PER_IMAGE = ("nll", "elbo")
"""Metrics with a value for every held-out image, in bits/dim."""


@dataclass(frozen=True, eq=False)
class Result:
    """One row and the values behind its errors: FD pseudo-values (G,), bits/dim per held-out image (n,)."""

    row: Mapping[str, Any]
    fd_pseudo_values: Array | None = None
    nll_index: np.ndarray | None = None
    nll_bits_per_dim: Array | None = None
    elbo_index: np.ndarray | None = None
    elbo_bits_per_dim: Array | None = None

    @classmethod
    def read(cls, artifact: Artifact) -> "Result":
        """A result from its artifact."""
        row = json.loads(artifact.path("result.json").read_text())
        with np.load(artifact.path("result.npz"), allow_pickle=False) as stored:
            return cls(row, **{field.name: stored.get(field.name) for field in fields(cls) if field.name != "row"})

    @property
    def net(self) -> str | None:
        """The feature net that names its distance."""
        return self.row["protocol"].get("net")


def paired_difference(a: Result, b: Result, metric: str = "fd", *, confidence: float = 0.95) -> Difference | None:
    """Difference a - b of a metric with its standard error and Student's interval; None where one side has no error.

    Args:
        a: a result.
        b: a result of the same feature net and reference, or of the same held-out images.
        metric: `fd` (or its full name, such as fd_clf_digits), compared by jackknife pseudo-values and so corrected for
            bias; or `nll` (`nll_bpd`) or `elbo` (`elbo_bpd`), compared image by image.
        confidence: of the interval.

    Cells that share seed and image indices share x_T, hence their blocks are paired; others are compared unpaired. The
    ELBO of an image has the same times and noise in all cells of one seed.

    Raises:
        DataError: the two distances come from different nets or references, or the images from different splits.
    """
    if metric.removesuffix("_bpd") in PER_IMAGE:
        return _image_difference(a, b, metric.removesuffix("_bpd"), confidence)
    if metric not in ("fd", a.net):
        raise ValueError(f"no paired comparison for metric {metric!r}; possible: fd, {', '.join(PER_IMAGE)}")
    if a.fd_pseudo_values is None or b.fd_pseudo_values is None:
        return None
    p, q = a.row["protocol"], b.row["protocol"]
    if any(p[key] != q[key] for key in ("net", "net_sha256", "reference")):
        raise DataError("distances of different feature nets or references cannot be compared")
    is_paired = all(
        p[key] == q[key] for key in ("seed", "num_images", "jackknife_blocks", "jackknife_group")
    ) and not any((side["method"] or {}).get("kind") == "test_split" for side in (p, q))
    return mean_difference(a.fd_pseudo_values, b.fd_pseudo_values, is_paired=is_paired, confidence=confidence)


def with_comparison(results: Sequence[Result], primary: str) -> list[dict[str, Any]]:
    """Rows with `comparison`: for every metric with errors, how each differs from the best trained row of the table.

    `comparison[metric]` = {best: bool, difference, se, low, high, significant, paired}; control rows that are no model
    (`test_split`) are compared but never the best. Metrics: `primary` when it is a feature distance, nll_bpd
    and elbo_bpd.
    """
    rows = [{**result.row, "comparison": {}} for result in results]
    per_image = tuple(f"{name}_bpd" for name in PER_IMAGE)
    for metric in dict.fromkeys((primary, *per_image)):
        candidates = [i for i, result in enumerate(results) if _may_win(result, metric)]
        if not candidates or (metric not in per_image and not metric.startswith("f")):
            continue
        best = min(candidates, key=lambda i: results[i].row["metrics"][metric])
        for result, row in zip(results, rows, strict=True):
            difference = None
            if metric in result.row["metrics"]:
                difference = paired_difference(result, results[best], metric)
            if difference is not None:
                row["comparison"][metric] = {
                    "best": result is results[best],
                    "difference": difference.difference,
                    "se": difference.se,
                    "low": difference.low,
                    "high": difference.high,
                    "significant": difference.is_significant,
                    "paired": difference.is_paired,
                }
    return rows


def _may_win(result: Result, metric: str) -> bool:
    method = result.row["protocol"].get("method") or {}
    return metric in result.row["metrics"] and method.get("kind") != "test_split"


def _image_difference(a: Result, b: Result, name: str, confidence: float) -> Difference | None:
    index_a, index_b = (getattr(side, f"{name}_index") for side in (a, b))
    bits_a, bits_b = (getattr(side, f"{name}_bits_per_dim") for side in (a, b))
    if index_a is None or index_b is None or bits_a is None or bits_b is None:
        return None
    p, q = (side.row["protocol"][name] for side in (a, b))
    if p["split"] != q["split"]:
        raise DataError(f"likelihoods of the {p['split']} and the {q['split']} split cannot be compared")
    _, rows_a, rows_b = np.intersect1d(index_a, index_b, assume_unique=True, return_indices=True)
    if len(rows_a) < 2:
        return None
    return mean_difference(bits_a[rows_a], bits_b[rows_b], is_paired=True, confidence=confidence)
