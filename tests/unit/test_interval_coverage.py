"""The interval of a distance holds its promise: 500 seeded sets against exact reference statistics."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.baselines.threads import single_thread
from pipeline.evaluate import FeatureStatistics, frechet_distance
from pipeline.evaluate.jackknife import NUM_BLOCKS, jackknife

DIM = 32
NUM_ROWS = 2000
NUM_REPEATS = 500
VARIANCES = np.geomspace(1.0, 0.05, DIM)
ROTATION, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))
REFERENCE = FeatureStatistics.from_moments(np.zeros(DIM), (ROTATION * VARIANCES) @ ROTATION.T, n=10**9)

Draw = Callable[[np.random.Generator], np.ndarray]


def gaussian(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((NUM_ROWS, DIM))


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    """Student's t with 8 degrees of freedom, one scale for all features of a row, of unit variance."""
    return gaussian(rng) * np.sqrt(6.0 / rng.chisquare(8.0, (NUM_ROWS, 1)))


def measured(draw: Draw, mean: np.ndarray, variances: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Population distance; corrected values, standard errors and whether the interval covers, `(repeats,)`."""
    population = float((mean**2).sum() + ((np.sqrt(variances) - np.sqrt(VARIANCES)) ** 2).sum())
    corrected, se, is_covered = [], [], []
    size = NUM_ROWS // NUM_BLOCKS
    with single_thread():
        for repeat in range(NUM_REPEATS):
            x = (mean + np.sqrt(variances) * draw(np.random.default_rng([7, repeat]))) @ ROTATION.T
            blocks = [FeatureStatistics.of(x[i : i + size]) for i in range(0, NUM_ROWS, size)]
            knife = jackknife(blocks, lambda part: frechet_distance(part, REFERENCE))
            low, high = knife.interval()
            corrected.append(knife.corrected)
            se.append(knife.se)
            is_covered.append(low <= population <= high)
    return population, np.array(corrected), np.array(se), np.array(is_covered)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [gaussian, heavy_tailed])
def test_interval_of_a_distance_covers_the_population_value_in_95_of_100_sets(draw: Draw) -> None:
    population, corrected, se, is_covered = measured(draw, np.full(DIM, 0.3), VARIANCES * np.linspace(1.6, 0.5, DIM))
    assert population > 20.0 * se.mean()
    assert 0.92 <= is_covered.mean() <= 0.98
    assert abs(corrected.mean() - population) <= 0.2 * se.mean()


@pytest.mark.slow
@pytest.mark.parametrize("draw", [gaussian, heavy_tailed])
def test_interval_of_equal_distributions_covers_zero(draw: Draw) -> None:
    _, corrected, se, is_covered = measured(draw, np.zeros(DIM), VARIANCES)
    assert is_covered.mean() >= 0.93
    assert abs(corrected.mean()) <= 0.2 * se.mean()
