"""Several trainings of one setting as one row: mean, scatter over seeds, and comparison by seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from pipeline.evaluate.jackknife import Difference, mean_variance, student_quantile
from pipeline.evaluate.metric_names import is_part
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
    over trainings, unless all values are equal. `seeds` lists them; entries of the protocol that differ are lists.
    """
    return compared(
        [_aggregated(setting) for setting in settings],
        [setting.first for setting in settings],
        primary,
        lambda i, j, metric: seed_difference(settings[i], settings[j], metric),
    )


def seed_difference(a: Setting, b: Setting, metric: str, *, confidence: float = 0.95) -> Difference | None:
    """Difference a - b of the means over trainings, with the error of their images; `over_seeds` has that of training.

    The error of the images is that of `comparison.paired_difference`, over the seeds together: it says whether these
    networks differ. The scatter over seeds says whether training them again would show it: paired by seed where both
    sides share at least two, else by Welch's formula; what has no training adds nothing to it. Two lone rows have the
    first alone, and where an error of the images is missing the second takes its place.

    Returns:
        None where neither is known, or where a lone training meets several: its scatter is not known.

    Raises:
        DataError: see `comparison.paired_difference`.
    """
    if len(a.results) == len(b.results) == 1:
        return paired_difference(a.first, b.first, metric, confidence=confidence)
    seeds_a, seeds_b = a.seeds_with(metric), b.seeds_with(metric)
    common = sorted({*seeds_a} & {*seeds_b})
    if len(common) >= 2:
        seeds_a = seeds_b = common
    scatter = _scatter(a, b, metric, (seeds_a, seeds_b), is_paired=len(common) >= 2)
    if scatter is None:
        return None
    difference = float(a.scores(metric, seeds_a).mean() - b.scores(metric, seeds_b).mean())
    over_seeds = Difference.of(difference, scatter, is_paired=len(common) >= 2, confidence=confidence)
    name = metric.removesuffix("_bpd")
    by_images = _image_parts if name in PER_IMAGE else _block_parts
    sampling = by_images(a, b, metric, (seeds_a, seeds_b))
    if sampling is None:
        return over_seeds
    is_paired = name in PER_IMAGE or len(common) >= 2
    found = Difference.of(difference, sampling, is_paired=is_paired, confidence=confidence)
    return replace(found, over_seeds=over_seeds)


Seeds = tuple[Sequence[int], Sequence[int]]
Parts = list[tuple[float, float]]
"""(variance, degrees of freedom) of independent estimates whose variances add up."""


def _scatter(a: Setting, b: Setting, metric: str, seeds: Seeds, *, is_paired: bool) -> Parts | None:
    """Variance of the difference of the means by the scatter over seeds, or None where it is not known."""
    if is_paired:
        return [mean_variance(a.scores(metric, seeds[0]) - b.scores(metric, seeds[1]))]
    parts: Parts = []
    for setting, own in zip((a, b), seeds, strict=True):
        if len(own) >= 2:
            parts.append(mean_variance(setting.scores(metric, own)))
        elif setting.is_trained or not own:
            return None
    return parts or None


def _block_parts(a: Setting, b: Setting, metric: str, seeds: Seeds) -> Parts | None:
    """Variance by the jackknife over blocks of images: of each pair of rows, or of each row where seeds differ."""
    check_same_reference(a.first, b.first)
    parts: Parts = []
    if seeds[0] == seeds[1]:
        for seed in seeds[0]:
            difference = paired_difference(a.results[seed], b.results[seed], metric)
            if difference is None:
                return None
            parts.append((difference.se**2 / len(seeds[0]) ** 2, difference.freedom))
        return parts
    for setting, own in zip((a, b), seeds, strict=True):
        for seed in own:
            values = setting.results[seed].pseudo_values_of(metric)
            if values is None:
                return None
            variance, freedom = mean_variance(values)
            parts.append((variance / len(own) ** 2, freedom))
    return parts


def _image_parts(a: Setting, b: Setting, metric: str, seeds: Seeds) -> Parts | None:
    """Variance over held-out images, which all seeds share, of the difference of the means over seeds."""
    name = metric.removesuffix("_bpd")
    if common_images(a.first, b.first, name) is None:
        return None
    means: list[Array] = []
    for setting, own in zip((a, b), seeds, strict=True):
        bits = [common_images(setting.results[seed], (b if setting is a else a).first, name) for seed in own]
        means.append(np.mean([pair[0] for pair in bits if pair is not None], axis=0))
    return [mean_variance(means[0] - means[1])]


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
            if len(set(values.values())) >= 2:  # what is the same for every seed is no mean
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
