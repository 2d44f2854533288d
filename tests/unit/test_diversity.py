"""Diversity metrics against closed forms: distances of pairs, their errors, and shares of classes."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest

from pipeline.evaluate.diversity import MAX_IMAGES, WINDOW, Diversity, diversity_metrics

RNG = np.random.default_rng(0)


def points(n: int, *, dim: int = 3, spread: float = 1.0) -> np.ndarray:
    return (spread * RNG.standard_normal((n, dim))).astype(np.float32)


def metrics(fake: Diversity, real: Diversity) -> tuple[dict[str, float], dict[str, str]]:
    found, reasons, _ = diversity_metrics(fake, real, suffix="_clf_x")
    return found, reasons


def test_distances_are_those_of_all_pairs_within_windows() -> None:
    x = points(WINDOW + 3)
    found = Diversity.of(x, None)
    near, rest = x[:WINDOW].astype(np.float64), x[WINDOW:].astype(np.float64)
    expected = [sum(float(np.linalg.norm(a - b)) for a, b in combinations(rows, 2)) for rows in (near, rest)]
    np.testing.assert_allclose(found.pair_sum, expected, rtol=1e-12)
    assert found.pair_count.tolist() == [WINDOW * (WINDOW - 1) // 2, 3]


def test_levels_are_compared_in_the_data_range() -> None:
    levels = np.array([[[[0, 0]]], [[[16, 16]]]], np.uint8)
    mean = Diversity.of(levels, 17).mean_distance()
    assert mean is not None
    assert mean[0] == pytest.approx(math.sqrt(2) * 32 / 17, rel=1e-6)
    assert mean[1] is None


def test_the_mean_distance_of_a_gaussian_is_the_known_one_within_its_error() -> None:
    mean = Diversity.of(points(4000), None).mean_distance()
    assert mean is not None
    value, se = mean
    assert se is not None
    expected = math.sqrt(2) * math.sqrt(8 / math.pi)  # sqrt(2) E|N(0, I_3)|
    assert abs(value - expected) < 4 * se
    assert se < 0.02 * expected


def test_the_error_is_the_spread_over_independent_sets() -> None:
    found = [Diversity.of(points(10 * WINDOW), None).mean_distance() for _ in range(200)]
    values = np.array([pair[0] for pair in found if pair is not None])
    errors = np.array([pair[1] for pair in found if pair is not None and pair[1] is not None])
    assert len(errors) == 200
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.2)


def test_blocks_join_to_the_whole_set() -> None:
    x = points(5 * WINDOW)
    logits = RNG.standard_normal((len(x), 4))
    whole = Diversity.of(x, None, logits=logits)
    cuts = (0, 2 * WINDOW, 5 * WINDOW)
    parts = [Diversity.of(x[a:b], None, first=a, logits=logits[a:b]) for a, b in pairwise(cuts)]
    joined = Diversity.joined(parts)
    np.testing.assert_array_equal(joined.pair_sum, whole.pair_sum)
    np.testing.assert_array_equal(joined.class_count, whole.class_count)


def test_arrays_come_back_from_their_packed_form() -> None:
    for logits in (None, RNG.standard_normal((7, 4))):
        found = Diversity.of(points(7), None, logits=logits)
        back = Diversity.unpacked(found.packed())
        np.testing.assert_array_equal(back.pair_sum, found.pair_sum)
        assert (back.class_count is None) == (logits is None)


def test_images_far_into_a_set_add_classes_and_no_distances() -> None:
    found = Diversity.of(points(20), None, first=MAX_IMAGES - 5, logits=np.eye(20))
    assert found.pair_count.tolist() == [10]
    assert found.class_count is not None
    assert found.class_count.sum() == 20


def test_half_the_spread_is_half_the_ratio() -> None:
    x = points(500)
    found, reasons = metrics(Diversity.of(x / 2, None), Diversity.of(x, None))
    assert found["pairwise_ratio"] == pytest.approx(0.5, rel=1e-6)
    assert 0.0 < found["pairwise_ratio_se"] < 0.05
    assert set(reasons) == {"class_share_min_clf_x", "num_classes_predicted_clf_x"}


def test_one_image_repeated_has_no_diversity_in_either_sense() -> None:
    x = np.repeat(points(1), 200, axis=0)
    fake = Diversity.of(x, None, logits=np.tile([0.0, 2.0, 1.0], (200, 1)))
    found, reasons = metrics(fake, Diversity.of(points(200), None))
    assert found["pairwise_ratio"] == 0.0
    assert found["pairwise_ratio_se"] == 0.0
    assert found["class_share_min_clf_x"] == 0.0
    assert found["num_classes_predicted_clf_x"] == 1.0
    assert not reasons


def test_a_class_counts_from_two_per_cent_on() -> None:
    predicted = np.repeat([0, 1, 2], [97, 2, 1])
    fake = Diversity.of(points(100), None, logits=np.eye(4)[predicted])
    found, _ = metrics(fake, Diversity.of(points(100), None))
    assert found["num_classes_predicted_clf_x"] == 2.0
    assert found["class_share_min_clf_x"] == 0.0
    three = Diversity(fake.pair_sum, fake.pair_count, np.array([97, 2, 1]))
    assert metrics(three, three)[0]["class_share_min_clf_x"] == pytest.approx(0.01)


@pytest.mark.parametrize(("fake", "real"), [(1, 100), (100, 1)])
def test_a_single_image_has_no_distance_and_says_so(fake: int, real: int) -> None:
    found, reasons = metrics(Diversity.of(points(fake), None), Diversity.of(points(real), None))
    assert "pairwise_ratio" not in found
    assert "two images" in reasons["pairwise_ratio"]


def test_equal_training_images_leave_no_ratio() -> None:
    flat = Diversity.of(np.zeros((100, 2), np.float32), None)
    found, reasons = metrics(flat, flat)
    assert "pairwise_ratio" not in found
    assert "equal" in reasons["pairwise_ratio"]
