"""Metrics of points against closed forms."""

import numpy as np
import pytest

from pipeline.evaluate.points import energy_distance, mode_coverage, sliced_w2

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 2))


def test_sliced_distance_in_one_dimension_equals_the_distance_of_sorted_points() -> None:
    u, v = RNG.standard_normal((60, 1)), RNG.standard_normal((60, 1)) * 2 + 1
    expected = np.sqrt(((np.sort(u[:, 0]) - np.sort(v[:, 0])) ** 2).mean())
    assert sliced_w2(u, v, num_directions=3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (5, 7), (3, 9)])
def test_sliced_distance_of_unequal_counts_equals_that_of_repeated_points(n: int, m: int) -> None:
    u, v = RNG.standard_normal((n, 2)), RNG.standard_normal((m, 2))
    same = sliced_w2(np.repeat(u, m, axis=0), np.repeat(v, n, axis=0))
    assert sliced_w2(u, v) == pytest.approx(same, rel=1e-12)


def test_sliced_distance_of_a_shift_is_its_length_over_the_root_of_the_dimension() -> None:
    shift = np.array([3.0, 4.0])
    assert sliced_w2(X, X + shift, num_directions=4096) == pytest.approx(5.0 / np.sqrt(2.0), rel=0.02)


def test_sliced_distance_is_a_function_of_its_seed() -> None:
    y = X * 1.5
    assert sliced_w2(X, y, seed=3) == sliced_w2(X, y, seed=3)
    assert sliced_w2(X, y, seed=3) != sliced_w2(X, y, seed=4)
    assert sliced_w2(X, X[::-1]) == pytest.approx(0.0, abs=1e-15)


def test_sliced_distance_of_two_gaussians_approaches_that_of_their_projections() -> None:
    rng = np.random.default_rng(2)
    u, v = rng.standard_normal((20_000, 2)), rng.standard_normal((15_000, 2)) * 2.0
    assert sliced_w2(u, v, num_directions=16) == pytest.approx(1.0, rel=0.02)  # |1 - 2| on every direction


def test_energy_distance_of_two_points_each_equals_its_definition() -> None:
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
    assert energy_distance(x, y) == pytest.approx(2 * (3 + 5 + 2 + 4) / 4 - 1 - 2)


def test_energy_distance_of_equal_distributions_is_zero_on_average() -> None:
    values = [energy_distance(*np.random.default_rng(seed).standard_normal((2, 40, 2))) for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert min(values) < 0.0


def test_energy_distance_grows_with_a_shift() -> None:
    y = RNG.standard_normal((200, 2))
    values = [energy_distance(X, y + shift) for shift in (0.0, 0.5, 1.0, 4.0)]
    assert values == sorted(values)


MODES = {"weights": [1.0, 3.0], "means": [[-5.0, 0.0], [5.0, 0.0]], "variances": [[1.0, 1.0], [0.25, 0.25]]}


def test_mode_masses_and_outliers_are_counted() -> None:
    points = [[-5.0, 0.0], [-4.0, 1.0], [5.0, 0.1], [-5.0, 3.9], [5.0, 2.1], [0.0, 0.0]]
    found = mode_coverage(points, **MODES)
    assert found.masses == pytest.approx((4 / 6, 2 / 6))  # the origin is 5 sigma from the first, 10 from the second
    assert found.weights == (0.25, 0.75)
    assert found.distance == pytest.approx(4 / 6 - 0.25)
    assert found.beyond == pytest.approx(2 / 6)  # the origin, and 2.1 / 0.5 = 4.2 sigma


def test_a_sample_of_the_mixture_has_its_masses_and_hardly_an_outlier() -> None:
    n = 4000
    label = RNG.random(n) < 0.75
    points = np.where(label[:, None], [5.0, 0.0], [-5.0, 0.0])
    points += RNG.standard_normal((n, 2)) * np.where(label, 0.5, 1.0)[:, None]
    found = mode_coverage(points, **MODES)
    assert found.distance < 3 * np.sqrt(0.25 * 0.75 / n)
    assert found.beyond < 0.003  # exp(-8) = 0.0003 in two dimensions


def test_points_and_mixtures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="points of 2 and 3 dimensions have no distance"):
        sliced_w2(X, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="at least two points"):
        energy_distance(X, X[:1])
    with pytest.raises(ValueError, match="generated points hold NaN"):
        energy_distance(X, np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match=r"need weights \(K,\), means and variances \(K, 2\)"):
        mode_coverage(X, weights=[1.0], means=[[0.0]], variances=[[1.0]])
    with pytest.raises(ValueError, match="positive finite weights and variances"):
        mode_coverage(X, weights=[1.0], means=[[0.0, 0.0]], variances=[[0.0, 1.0]])
