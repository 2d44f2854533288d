"""Several trainings of one setting as one row: mean, scatter over seeds, and comparison by seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.comparison import (
    PER_IMAGE,
    Result,
    check_same_reference,
    common_images,
    compared,
    paired_difference,
)
from pipeline.evaluate.jackknife import Difference, mean_difference, mean_variance, student_quantile
from pipeline.evaluate.metric_names import error_name, is_part
from pipeline.evaluate.statistics import Array


@dataclass(frozen=True, eq=False)
class Setting:
    """Rows that differ in their seed alone.

    Attributes:
        results: by seed, at least one.
        is_trained: whether a seed is a training; values without training scatter by their images alone.
    """

    results: Mapping[int, Result]
    is_trained: bool = True

    @property
    def first(self) -> Result:
        """The result of the smallest seed."""
        return self.results[min(self.results)]

    def scores(self, metric: str, seeds: Sequence[int]) -> Array:
        """A metric per seed (n,), without most of its bias where that is known."""
        rows = [self.results[seed].row["metrics"] for seed in seeds]
        return np.array([row.get(f"{metric}_jk", row[metric]) for row in rows], np.float64)

    def seeds_with(self, metric: str) -> list[int]:
        """Seeds whose row has the metric, rising."""
        return [seed for seed in sorted(self.results) if metric in self.results[seed].row["metrics"]]


@dataclass(frozen=True)
class Spread:
    """A metric over trainings: mean, standard deviation (n - 1), number, and Student's interval of the mean."""

    mean: float
    sd: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], *, confidence: float = 0.95) -> "Spread":
        """Of the values of n >= 2 seeds."""
        if len(values) < 2:
            raise ValueError(f"a scatter over seeds needs at least two values, found {len(values)}")
        array = np.array(values, np.float64)
        mean, sd = float(array.mean()), float(array.std(ddof=1))
        half = student_quantile(len(values) - 1, confidence) * sd / float(np.sqrt(len(values)))
        return cls(mean, sd, len(values), mean - half, mean + half)


def aggregated_rows(settings: Sequence[Setting], primary: str) -> list[dict[str, Any]]:
    """One row per setting, with `comparison` as in `comparison.with_comparison`.

    A row of several seeds has the mean of every metric; under `<metric>_se` the root mean square of the rows' standard
    errors, which is the error of the images of one row; and `spread[metric]` = {sd, n, low, high, values}, the scatter
    over trainings. `seeds` lists them; entries of the protocol that differ between them are lists.
    """
    return compared(
        [_aggregated(setting) for setting in settings],
        [setting.first for setting in settings],
        primary,
        lambda i, j, metric: seed_difference(settings[i], settings[j], metric),
    )


def seed_difference(a: Setting, b: Setting, metric: str, *, confidence: float = 0.95) -> Difference | None:
    """Difference a - b of the means over trainings; None where the scatter over trainings of one side is not known.

    Settings that share at least two seeds are paired by seed: a seed is a set of images and a training. Other settings
    are compared by Welch's formula. What has no training has the error of its images. Two lone rows are compared as
    such. Bits per dimension have the scatter over held-out images, common to all seeds, besides.

    Raises:
        DataError: see `comparison.paired_difference`.
    """
    if len(a.results) == len(b.results) == 1:
        return paired_difference(a.first, b.first, metric, confidence=confidence)
    if a is b:
        return Difference.of(0.0, [(0.0, 1.0)], is_paired=True, confidence=confidence)
    seeds_a, seeds_b = a.seeds_with(metric), b.seeds_with(metric)
    name = metric.removesuffix("_bpd")
    if name not in PER_IMAGE:
        check_same_reference(a.first, b.first)
    common = sorted({*seeds_a} & {*seeds_b})
    if len(common) >= 2:
        difference = mean_difference(a.scores(metric, common), b.scores(metric, common), is_paired=True)
        parts = [(difference.se**2, difference.freedom)]
        seeds_a = seeds_b = common
    else:
        known = [_mean_variance(setting, metric) for setting in (a, b)]
        if None in known:
            return None
        parts = [part for part in known if part is not None]
    if name in PER_IMAGE:
        images = _image_part(a, b, name, (seeds_a, seeds_b))
        if images is None:
            return None
        parts.append(images)
    value = float(a.scores(metric, seeds_a).mean() - b.scores(metric, seeds_b).mean())
    return Difference.of(value, parts, is_paired=len(common) >= 2, confidence=confidence)


def _mean_variance(setting: Setting, metric: str) -> tuple[float, float] | None:
    """Variance of the mean over seeds and its degrees of freedom, or None where it is not known."""
    seeds = setting.seeds_with(metric)
    if len(seeds) >= 2:
        return mean_variance(setting.scores(metric, seeds))
    if setting.is_trained or not seeds:
        return None
    if metric.removesuffix("_bpd") in PER_IMAGE:
        return 0.0, 1.0  # of held-out images, which are counted apart
    row = setting.results[seeds[0]].row
    se = row["metrics"].get(error_name(metric))
    return None if se is None else (se**2, float(row["protocol"]["jackknife_blocks"] - 1))


def _image_part(
    a: Setting, b: Setting, name: str, seeds: tuple[Sequence[int], Sequence[int]]
) -> tuple[float, float] | None:
    """Variance over held-out images of the difference of the means over seeds."""
    if common_images(a.first, b.first, name) is None:
        return None
    means = [
        np.mean([getattr(setting.results[seed], f"{name}_bits_per_dim") for seed in own], axis=0)
        for setting, own in zip((a, b), seeds, strict=True)
    ]
    indices = [getattr(setting.results[own[0]], f"{name}_index") for setting, own in zip((a, b), seeds, strict=True)]
    _, rows_a, rows_b = np.intersect1d(*indices, assume_unique=True, return_indices=True)
    return mean_variance(means[0][rows_a] - means[1][rows_b])


def _aggregated(setting: Setting) -> dict[str, Any]:
    seeds = sorted(setting.results)
    rows = [setting.results[seed].row for seed in seeds]
    if len(rows) == 1:
        return {**rows[0], "spread": {}, "seeds": seeds}
    metrics: dict[str, float] = {}
    spread: dict[str, Any] = {}
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    for name in names:
        values = {seed: row["metrics"][name] for seed, row in zip(seeds, rows, strict=True) if name in row["metrics"]}
        numbers = np.array(list(values.values()), np.float64)
        if name.endswith("_se") and is_part(name, names):
            metrics[name] = float(np.sqrt((numbers**2).mean()))
        elif not (name.endswith(("_low", "_high")) and is_part(name, names)):  # intervals of single rows
            metrics[name] = float(numbers.mean())
            if len(values) >= 2:
                over = Spread.of(list(values.values()))
                spread[name] = {"sd": over.sd, "n": over.n, "low": over.low, "high": over.high, "values": values}
    reasons = {name: reason for row in rows for name, reason in row["reasons"].items() if name not in metrics}
    protocol = _joined([row["protocol"] for row in rows])
    return {**rows[0], "metrics": metrics, "reasons": reasons, "protocol": protocol, "spread": spread, "seeds": seeds}


def _joined(values: Sequence[Any]) -> Any:
    """One value where all are equal, mappings key by key, else the list of what differs."""
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {
            key: _joined([value.get(key) for value in values]) for key in dict.fromkeys(k for v in values for k in v)
        }
    return list(values)
