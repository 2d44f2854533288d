"""Moments from float32 products, by class, and what a set without spread says of itself."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from pipeline.baselines.threads import single_thread
from pipeline.evaluate import FeatureStatistics, frechet_distance
from pipeline.evaluate.frechet import frechet_by_class
from pipeline.evaluate.statistics import FLOAT32_ROWS, merged, packed, statistics_by_class, unpacked

DIM = 96


def rectified(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features as a net gives them: most of a channel near zero, float32."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((12, DIM)) * np.geomspace(1.0, 0.1, 12)[:, None]
    x = rng.standard_normal((n, 12)) @ mix + 0.3 * rng.standard_normal((n, DIM)) + shift
    return np.maximum(x, 0.02 * x).astype(np.float32)


@pytest.mark.parametrize("shift", [0.02, 0.5])
def test_float32_products_move_the_distance_by_less_than_1e_6_of_itself(shift: float) -> None:
    reference = FeatureStatistics.of(rectified(3000, 1))
    x = rectified(4500, 2, shift)
    fast, slow = (frechet_distance(FeatureStatistics.of(x, method=m), reference) for m in ("float32", "float64"))
    assert fast == pytest.approx(slow, rel=1e-6)
    assert fast != slow


def test_float32_products_keep_their_digits_far_from_the_origin() -> None:
    x = np.random.default_rng(3).standard_normal((2500, 8)) + 1e6
    fast, slow = (FeatureStatistics.of(x, method=m) for m in ("float32", "float64"))
    np.testing.assert_allclose(fast.covariance, slow.covariance, atol=1e-6)
    np.testing.assert_allclose(fast.mean, slow.mean, rtol=1e-13)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_float32_products_follow_the_unit_of_the_features(unit: float) -> None:
    x = rectified(2100, 4).astype(np.float64)
    fast = FeatureStatistics.of(x * unit, method="float32")
    assert fast.method == "float32"
    np.testing.assert_allclose(fast.covariance / unit**2, FeatureStatistics.of(x).covariance, atol=1e-6)


def test_values_beyond_the_range_of_float32_products_fall_back_to_float64() -> None:
    x = np.random.default_rng(5).standard_normal((2500, 4))
    x[2000] = 1e100
    assert FeatureStatistics.of(x, method="float32").method == "float64"
    with pytest.raises(ValueError, match=r"features up to 1e\+200 are too large for a covariance"):
        FeatureStatistics.of(x * 1e100)


def test_more_than_ten_thousand_rows_take_float32_products_and_fewer_do_not() -> None:
    x = np.random.default_rng(6).standard_normal((FLOAT32_ROWS + 1, 3))
    assert FeatureStatistics.of(x).method == "float32"
    assert FeatureStatistics.of(x[1:]).method == "float64"
    assert FeatureStatistics.of(x, method="float64").method == "float64"


def test_a_union_with_one_float32_part_is_float32_also_after_packing() -> None:
    x = rectified(2400, 7)
    a, b = FeatureStatistics.of(x[:1200]), FeatureStatistics.of(x[1200:], method="float32")
    assert merged([a, a]).method == "float64"
    assert a.merge(b).method == b.merge(a).method == a.merge(b).without(a).method == "float32"
    assert [part.method for part in unpacked(**packed([a, b]))] == ["float64", "float32"]
    assert set(packed([a])) == {"count", "mean", "scatter"}


def test_float32_products_are_bit_equal_for_any_number_of_threads_of_the_caller() -> None:
    x = rectified(3300, 8)
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads), single_thread():
            found.append(FeatureStatistics.of(x, method="float32"))
    np.testing.assert_array_equal(found[0].mean, found[1].mean)
    np.testing.assert_array_equal(found[0].scatter, found[1].scatter)


def test_constant_features_are_counted() -> None:
    x = rectified(50, 9)
    x[:, 3:5] = 7.0
    assert FeatureStatistics.of(x).num_constant == 2
    assert FeatureStatistics.of(np.ones((5, 4))).num_constant == 4


def test_distances_by_class_equal_distances_of_the_classes_alone() -> None:
    x, y = rectified(900, 10), rectified(900, 11, 0.1)
    labels = np.arange(900) % 3
    found = frechet_by_class(statistics_by_class(y, labels), statistics_by_class(x, labels))
    for label in range(3):
        one = frechet_distance(FeatureStatistics.of(y[labels == label]), FeatureStatistics.of(x[labels == label]))
        assert found.distances[label] == one
    assert found.mean == pytest.approx(np.mean(list(found.distances.values())))


def test_a_class_that_was_never_generated_has_a_reason_and_leaves_no_mean() -> None:
    x = rectified(300, 12)
    labels = np.arange(300) % 3
    found = frechet_by_class(statistics_by_class(x[labels < 2], labels[labels < 2]), statistics_by_class(x, labels))
    assert set(found.distances) == {0, 1}
    assert found.reasons[2] == "a distance needs two images on both sides, there are 0 generated and 100 real ones"
    assert found.mean is None


def test_a_generated_class_without_reference_is_refused() -> None:
    one = FeatureStatistics.of(rectified(20, 13))
    with pytest.raises(ValueError, match=r"no reference for the classes \[7\]; it has \[1\]"):
        frechet_by_class({7: one}, {1: one})


def test_labels_of_another_count_are_refused() -> None:
    with pytest.raises(ValueError, match="20 feature rows need as many integer labels"):
        statistics_by_class(rectified(20, 14), np.zeros(19, np.int64))
