"""Results read back, and compared pair by pair: which cells cannot be told from the best one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pipeline.config import DataError
from pipeline.evaluate.jackknife import Difference, mean_difference
from pipeline.evaluate.metric_names import feature_metric, is_divergence
from pipeline.evaluate.statistics import Array
from pipeline.store import Artifact

PER_IMAGE = ("nll", "elbo", "vlb")
"""Metrics with a value for every held-out image, in bits/dim."""

LEVEL = 0.05
"""Probability, at most, that any row of a table is told from the best one where there is no difference."""

_PSEUDO = "_pseudo_values"


@dataclass(frozen=True, eq=False)
class Result:
    """One row and the values behind its errors: FD pseudo-values (G,), bits/dim per held-out image (n,).

    Attributes:
        row: metrics, reasons and protocol.
        fd_pseudo_values: of `distance`.
        pseudo_values: of further metrics, by their names.
    """

    row: Mapping[str, Any]
    fd_pseudo_values: Array | None = None
    nll_index: np.ndarray | None = None
    nll_bits_per_dim: Array | None = None
    elbo_index: np.ndarray | None = None
    elbo_bits_per_dim: Array | None = None
    vlb_index: np.ndarray | None = None
    vlb_bits_per_dim: Array | None = None
    pseudo_values: Mapping[str, Array] = field(default_factory=dict[str, Array])

    @classmethod
    def read(cls, artifact: Artifact) -> "Result":
        """A result from its artifact; arrays `<metric>_pseudo_values` are those of that metric."""
        row = json.loads(artifact.path("result.json").read_text())
        own = [entry.name for entry in fields(cls) if entry.name not in ("row", "pseudo_values")]
        with np.load(artifact.path("result.npz"), allow_pickle=False) as stored:
            further = {
                name.removesuffix(_PSEUDO): stored[name]
                for name in stored.files
                if name.endswith(_PSEUDO) and name not in own
            }
            return cls(row, **{name: stored.get(name) for name in own}, pseudo_values=further)

    @property
    def distance(self) -> str | None:
        """The name of the distance in its first feature net, or None where it has none."""
        protocol = self.row["protocol"]
        net = protocol.get("net")
        return None if net is None else feature_metric("fd", net, num_images=protocol["num_images"])

    @property
    def is_data(self) -> bool:
        """Whether its images are those of the data set: compared, and never the best."""
        return (self.row["protocol"].get("method") or {}).get("kind") == "test_split"

    def pseudo_values_of(self, metric: str) -> Array | None:
        """Jackknife pseudo-values (G,) of a metric, or None."""
        if metric in self.pseudo_values:
            return self.pseudo_values[metric]
        return self.fd_pseudo_values if metric in ("fd", self.distance) else None


def paired_difference(a: Result, b: Result, metric: str = "fd", *, confidence: float = 0.95) -> Difference | None:
    """Difference a - b of a metric with its standard error and Student's interval; None where one side has no error.

    Args:
        a: a result.
        b: a result of the same feature net and reference, or of the same held-out images.
        metric: `fd`, the full name of a distance (such as fd_clf_digits) or another divergence, compared by jackknife
            pseudo-values and so corrected for bias; or `nll` (`nll_bpd`), `elbo` or `vlb`, compared image by image.
        confidence: of the interval.

    Cells that share seed and image indices share x_T, hence their blocks are paired; others are compared unpaired. The
    ELBO of an image has the same times and noise in all cells of one seed.

    Raises:
        DataError: the two distances come from different nets or references, or the images from different splits.
    """
    if metric.removesuffix("_bpd") in PER_IMAGE:
        return _image_difference(a, b, metric.removesuffix("_bpd"), confidence)
    if metric != "fd" and not is_divergence(metric):
        raise ValueError(f"no paired comparison for metric {metric!r}; possible: fd, {', '.join(PER_IMAGE)}")
    values_a, values_b = a.pseudo_values_of(metric), b.pseudo_values_of(metric)
    if values_a is None or values_b is None:
        return None
    check_same_reference(a, b)
    p, q = a.row["protocol"], b.row["protocol"]
    keys = ("seed", "num_images", "jackknife_blocks", "jackknife_group")
    is_paired = all(p.get(key) == q.get(key) for key in keys) and not (a.is_data or b.is_data)
    return mean_difference(values_a, values_b, is_paired=is_paired, confidence=confidence)


def check_same_reference(a: Result, b: Result) -> None:
    """Distances meet only in the features of one net and against one reference.

    Raises:
        DataError: they do not.
    """
    p, q = a.row["protocol"], b.row["protocol"]
    if any(p.get(key) != q.get(key) for key in ("net", "net_sha256", "nets", "reference")):
        raise DataError("distances of different feature nets or references cannot be compared")


def with_comparison(results: Sequence[Result], primary: str) -> list[dict[str, Any]]:
    """Rows with `comparison`: for every metric with errors, how each differs from the best trained row of the table.

    `comparison[metric]` is an entry of `compared_with_best`; control rows that are no model (`test_split`) are compared
    but never the best. Metrics: `primary` where it is a divergence, others with pseudo-values, and the bits/dim of
    `PER_IMAGE`. Rows whose axes name different data sets are different tables.
    """
    rows = [result.row for result in results]
    return compared(rows, results, primary, lambda i, j, metric: paired_difference(results[i], results[j], metric))


def compared(
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    primary: str,
    difference: Callable[[int, int, str], Difference | None],
) -> list[dict[str, Any]]:
    """Rows with `comparison`, by a difference of rows i and j in a metric; `results` are those behind the rows."""
    compared = [{**row, "comparison": {}} for row in rows]
    for metric in compared_metrics(results, primary):
        for same in same_data([row.get("axes", {}) for row in rows]):
            found = compared_with_best(
                [rows[i]["metrics"].get(metric) for i in same],
                [not results[i].is_data for i in same],
                lambda a, b, same=same, metric=metric: difference(same[a], same[b], metric),
            )
            for position, entry in zip(same, found, strict=True):
                if entry is not None:
                    compared[position]["comparison"][metric] = entry
    return compared


def compared_metrics(results: Sequence[Result], primary: str) -> tuple[str, ...]:
    """The metrics of a table that have a comparison, `primary` first where it is one of them."""
    distances = [primary, *(name for result in results for name in result.pseudo_values)]
    distances += [name for result in results if result.fd_pseudo_values is not None and (name := result.distance)]
    per_image = tuple(f"{name}_bpd" for name in PER_IMAGE)
    return tuple(dict.fromkeys([*(name for name in distances if is_divergence(name)), *per_image]))


def same_data(axes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Positions of the rows of each data set; values of different data sets are never compared."""
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(axes):
        groups.setdefault(str(row.get("dataset", "")), []).append(position)
    return list(groups.values())


def compared_with_best(
    values: Sequence[float | None], may_win: Sequence[bool], difference: Callable[[int, int], Difference | None]
) -> list[dict[str, Any] | None]:
    """How each value of one metric differs from the smallest of those that may win.

    Args:
        values: None where the metric is absent.
        may_win: rows among which the best is looked for.
        difference: of rows i and j, or None where one has no error.

    Returns:
        {best, difference, se, low, high, p, p_holm, significant, paired} or None. `low` and `high` are the interval of
        this difference alone, and `p` belongs to it; `p_holm` is corrected for the number of different values that are
        compared with the best one; rows equal to it are the best, too. Where values are means over seeds, `p_seeds` is
        that of their scatter, not corrected. `significant` needs p_holm below `LEVEL`, and `p_seeds` too where there is
        one.
    """
    candidates = [(value, i) for i, value in enumerate(values) if value is not None and may_win[i]]
    if not candidates:
        return [None] * len(values)
    best = min(candidates)[1]
    found = [None if value is None else difference(i, best) for i, value in enumerate(values)]
    is_best = [i == best or (values[i] == values[best] and _is_nothing(entry)) for i, entry in enumerate(found)]
    family = {  # samplers of one training have the same likelihood: one comparison
        (entry.difference, entry.se): entry.p_value
        for entry, wins in zip(found, is_best, strict=True)
        if entry is not None and not wins
    }
    corrected = dict(zip(family, holm(list(family.values())), strict=True))
    return [
        None if entry is None else _entry(entry, wins, corrected.get((entry.difference, entry.se), 1.0))
        for entry, wins in zip(found, is_best, strict=True)
    ]


def _is_nothing(found: Difference | None) -> bool:
    """Whether two rows are equal, image by image."""
    return found is not None and found.difference == found.se == 0.0


def _entry(found: Difference, is_best: bool, p_holm: float) -> dict[str, Any]:
    entry = {
        "best": is_best,
        "difference": found.difference,
        "se": found.se,
        "low": found.low,
        "high": found.high,
        "p": found.p_value,
        "p_holm": p_holm,
        "significant": p_holm < LEVEL,
        "paired": found.is_paired,
    }
    if found.over_seeds is not None:
        p_seeds = found.over_seeds.p_value
        entry |= {"p_seeds": p_seeds, "significant": p_holm < LEVEL and p_seeds < LEVEL}
    return entry


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number so that the chance of any false finding stays below the level (Holm 1979).

    The k-th smallest of m is multiplied by m - k + 1; the result is at most 1 and never falls where p rises.
    """
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _image_difference(a: Result, b: Result, name: str, confidence: float) -> Difference | None:
    values = common_images(a, b, name)
    if values is None:
        return None
    return mean_difference(*values, is_paired=True, confidence=confidence)


def common_images(a: Result, b: Result, name: str) -> tuple[Array, Array] | None:
    """Bits/dim (n,) of the held-out images that both rows scored, or None for less than two.

    Raises:
        DataError: the images come from different splits.
    """
    index_a, index_b = (getattr(side, f"{name}_index") for side in (a, b))
    bits_a, bits_b = (getattr(side, f"{name}_bits_per_dim") for side in (a, b))
    if index_a is None or index_b is None or bits_a is None or bits_b is None:
        return None
    p, q = (side.row["protocol"][name] for side in (a, b))
    if p["split"] != q["split"]:
        raise DataError(f"likelihoods of the {p['split']} and the {q['split']} split cannot be compared")
    _, rows_a, rows_b = np.intersect1d(index_a, index_b, assume_unique=True, return_indices=True)
    return None if len(rows_a) < 2 else (bits_a[rows_a], bits_b[rows_b])
