"""Delete-a-block jackknife of a statistic over blocks of images, and the comparison of two cells by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from pipeline.evaluate.statistics import Array, FeatureStatistics, merged

NUM_BLOCKS = 20


@dataclass(frozen=True, eq=False)
class Jackknife:
    """Value on all images, bias-corrected value, standard error and the pseudo-value of every block (G,)."""

    value: float
    corrected: float
    se: float
    pseudo_values: Array

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student interval around the corrected value, G - 1 degrees of freedom."""
        half = student_quantile(len(self.pseudo_values) - 1, confidence) * self.se
        return self.corrected - half, self.corrected + half


@dataclass(frozen=True)
class Difference:
    """Difference a - b of two results with its standard error and interval; paired by block, by image or by seed.

    Attributes:
        difference, se: and the interval from `low` to `high`.
        is_paired: whether the errors of both sides were taken together.
        freedom: degrees of freedom behind the error.
        over_seeds: the same difference with the error of the scatter over trainings, where there are several.
    """

    difference: float
    se: float
    low: float
    high: float
    is_paired: bool
    freedom: float
    over_seeds: "Difference | None" = None

    @classmethod
    def of(
        cls, difference: float, parts: Sequence[tuple[float, float]], *, is_paired: bool, confidence: float = 0.95
    ) -> "Difference":
        """A difference whose variance is a sum of independent estimates, with Satterthwaite's degrees of freedom.

        Args:
            difference: a - b.
            parts: (variance, degrees of freedom) of each estimate, at least one.
            is_paired: for the record.
            confidence: of the interval.
        """
        if len(parts) == 1:
            variance, freedom = parts[0]
        else:
            variance = sum(part for part, _ in parts)
            spread = sum(part**2 / own for part, own in parts)
            freedom = variance**2 / spread if spread > 0.0 else 1.0
        se = float(np.sqrt(variance))
        half = student_quantile(freedom, confidence) * se
        return cls(difference, se, difference - half, difference + half, is_paired, float(freedom))

    @property
    def is_significant(self) -> bool:
        """The interval excludes zero."""
        return self.low > 0.0 or self.high < 0.0

    @property
    def p_value(self) -> float:
        """Two-sided probability of a difference at least as large where there is none; 1 for 0 without any error."""
        if self.se == 0.0:
            return 1.0 if self.difference == 0.0 else 0.0
        return float(2.0 * stats.t.sf(abs(self.difference) / self.se, self.freedom))


def jackknife(
    groups: Sequence[FeatureStatistics],
    statistic: Callable[[FeatureStatistics], float],
    *,
    num_blocks: int = NUM_BLOCKS,
) -> Jackknife:
    """Jackknife over `num_blocks` ranges of consecutive groups, as equal in size as the groups allow.

    Removes the bias that the groups' side causes to first order in 1/n (not the reference's) and gives an honest
    standard error at no more variance than the raw value. Unequal blocks by Busing, Meijer & van der Leeden 1999.
    """
    if len(groups) < num_blocks:
        raise ValueError(f"{num_blocks} jackknife blocks need as many groups, found {len(groups)}")
    blocks = block_statistics(groups, num_blocks)
    total = merged(blocks)
    value = statistic(total)
    left_out = np.array([statistic(total.without(block)) for block in blocks])
    ratio = total.n / np.array([block.n for block in blocks], np.float64)  # h_j = n / m_j
    pseudo = ratio * value - (ratio - 1.0) * left_out
    corrected = float(num_blocks * value - ((1.0 - 1.0 / ratio) * left_out).sum())
    variance = float(((pseudo - corrected) ** 2 / (ratio - 1.0)).mean())
    return Jackknife(value, corrected, float(np.sqrt(variance)), pseudo)


def block_statistics(groups: Sequence[FeatureStatistics], num_blocks: int) -> list[FeatureStatistics]:
    """Groups in order merged into `num_blocks` ranges whose numbers of rows are as equal as the groups allow."""
    ends = np.cumsum([group.n for group in groups])
    cuts = [int(np.searchsorted(ends, ends[-1] * k / num_blocks - 0.5)) + 1 for k in range(1, num_blocks)]
    bounds = [0]
    for k, cut in enumerate(cuts, start=1):  # every block keeps at least one group
        bounds.append(min(max(cut, bounds[-1] + 1), len(groups) - (num_blocks - k)))
    bounds.append(len(groups))
    return [merged(groups[lo:hi]) for lo, hi in pairwise(bounds)]


def mean_difference(a: Array, b: Array, *, is_paired: bool, confidence: float = 0.95) -> Difference:
    """Difference of the means of two samples (n,), with Student's interval; unpaired: Welch's."""
    difference = float(a.mean() - b.mean())
    if is_paired:
        if a.shape != b.shape:
            raise ValueError(f"paired samples have different sizes, {a.shape} and {b.shape}")
        parts = [mean_variance(a - b)]
    else:
        parts = [mean_variance(a), mean_variance(b)]
    return Difference.of(difference, parts, is_paired=is_paired, confidence=confidence)


def mean_variance(values: Array) -> tuple[float, float]:
    """Variance of the mean of a sample (n,), n >= 2, and its degrees of freedom."""
    return float(values.var(ddof=1) / len(values)), float(len(values) - 1)


def student_quantile(freedom: float, confidence: float) -> float:
    """Half-width of the two-sided Student interval in standard errors."""
    return float(stats.t.ppf(0.5 + confidence / 2.0, freedom))
