"""Inception score and CMMD in closed form, and what they refuse."""

import numpy as np
import pytest

from pipeline.evaluate.cmmd import cmmd
from pipeline.evaluate.inception_score import inception_score

SURE = 200.0 * np.eye(10)


def test_score_of_sure_and_even_predictions_is_the_number_of_classes() -> None:
    assert inception_score(np.tile(SURE, (50, 1)), shuffle_seed=None) == pytest.approx((10.0, 0.0))


def test_score_of_predictions_that_know_nothing_is_one() -> None:
    assert inception_score(np.zeros((50, 10))) == pytest.approx((1.0, 0.0))


def test_images_in_order_of_their_class_make_splits_of_one_class_unless_shuffled() -> None:
    ordered = np.repeat(SURE, 50, axis=0)
    assert inception_score(ordered, shuffle_seed=None).mean == pytest.approx(1.0)
    assert inception_score(ordered).mean > 8.0


def test_logits_that_give_no_score_are_refused() -> None:
    with pytest.raises(ValueError, match="5 images cannot be put into 10 splits"):
        inception_score(np.zeros((5, 10)))
    with pytest.raises(ValueError, match="logits hold NaN"):
        inception_score(np.full((20, 10), np.nan))
    with pytest.raises(ValueError, match=r"logits must be \(n, classes >= 2\)"):
        inception_score(np.zeros(20))


def test_discrepancy_of_two_directions_equals_the_closed_form() -> None:
    x, y = np.array([[2.0, 0.0]] * 3), np.array([[0.0, 5.0]] * 4)
    assert cmmd(x, y) == pytest.approx(1000.0 * 2.0 * (1.0 - np.exp(-2.0 / 200.0)), rel=1e-12)


def test_discrepancy_of_equal_sets_is_zero_to_rounding() -> None:
    x = np.random.default_rng(0).standard_normal((90, 32)).astype(np.float32)
    assert abs(cmmd(x, x[::-1])) < 1e-12


def test_discrepancy_is_nearly_that_of_the_means() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((200, 16)) + 1.0, rng.standard_normal((150, 16)) + 1.3
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    linear = 10.0 * ((unit[0].mean(axis=0) - unit[1].mean(axis=0)) ** 2).sum()
    assert cmmd(x, y) == pytest.approx(linear, rel=0.02)


def test_embeddings_that_have_no_discrepancy_are_refused() -> None:
    with pytest.raises(ValueError, match="generated embeddings hold a row of zeros"):
        cmmd(np.ones((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        cmmd(np.ones((3, 2)), np.ones((3, 3)))
