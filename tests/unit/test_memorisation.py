"""The memorisation check: honest samples pass, planted copies are found, blocks join to the whole."""

import numpy as np
import pytest

from pipeline.evaluate.memorisation import Nearest, memorisation

RNG = np.random.default_rng(0)
TRAIN = (RNG.integers(0, 256, (400, 48)) / 127.5 - 1.0).astype(np.float32)
HELD_OUT = (RNG.integers(0, 256, (300, 48)) / 127.5 - 1.0).astype(np.float32)
HONEST = (RNG.integers(0, 256, (500, 48)) / 127.5 - 1.0).astype(np.float32)


def test_nearest_training_images_are_those_of_all_distances() -> None:
    found = Nearest.of(HONEST, TRAIN)
    distances = np.sqrt(((HONEST[:, None].astype(np.float64) - TRAIN[None]) ** 2).sum(axis=2))
    np.testing.assert_array_equal(found.index, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=1e-12)


def test_blocks_of_both_sides_join_to_the_whole_in_any_order() -> None:
    parts = [
        Nearest.of(HONEST[i : i + 130], TRAIN[j : j + 170], first_image=i, first_training=j)
        for i in range(0, 500, 130)
        for j in range(0, 400, 170)
    ]
    whole = Nearest.of(HONEST, TRAIN)
    for order in (parts, parts[::-1]):
        joined = Nearest.of_all(order)
        for name in ("image", "index", "distance"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_of_equal_training_images_the_least_index_is_found() -> None:
    twice = np.concatenate([TRAIN[:50], TRAIN[:50]])
    parts = [Nearest.of(TRAIN[:9], twice[i : i + 25], first_training=i) for i in (75, 50, 25, 0)]
    for found in (Nearest.of(TRAIN[:9], twice), Nearest.of_all(parts)):
        np.testing.assert_array_equal(found.index, np.arange(9))
        np.testing.assert_array_equal(found.distance, 0.0)


def test_packed_distances_come_back() -> None:
    found = Nearest.of(HONEST, TRAIN, first_image=7)
    back = Nearest.unpacked(found.packed())
    for name in ("image", "index", "distance"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))


def test_images_of_the_same_distribution_are_as_near_as_held_out_ones() -> None:
    found = memorisation(Nearest.of(HONEST, TRAIN), Nearest.of(HELD_OUT, TRAIN))
    assert abs(found.ratio - 1.0) < 3.0 * found.ratio_se
    assert abs(found.share - 0.01) < 3.0 * max(found.share_se, 0.005)
    assert found.num_copies == 0


def test_a_planted_copy_is_the_first_pair() -> None:
    planted = HONEST.copy()
    planted[321] = TRAIN[123]
    found = memorisation(Nearest.of(planted, TRAIN), Nearest.of(HELD_OUT, TRAIN), num_pairs=3)
    assert found.pairs[0] == (321, 123, 0.0)
    assert found.num_copies == 1
    assert len(found.pairs) == 3
    assert found.pairs[1].distance > 0.0


def test_a_copy_with_a_little_noise_is_the_first_pair_without_being_a_copy() -> None:
    planted = HONEST.copy()
    planted[7] = TRAIN[5] + 0.01
    found = memorisation(Nearest.of(planted, TRAIN), Nearest.of(HELD_OUT, TRAIN))
    assert found.pairs[0][:2] == (7, 5)
    assert found.num_copies == 0


def test_a_model_that_copies_a_tenth_shows_in_the_share_and_one_that_copies_all_in_the_ratio() -> None:
    held_out = Nearest.of(HELD_OUT, TRAIN)
    planted = HONEST.copy()
    planted[::10] = TRAIN[:50]
    tenth = memorisation(Nearest.of(planted, TRAIN), held_out)
    assert tenth.share == pytest.approx(0.1, abs=0.03)
    assert tenth.share - 0.01 > 3.0 * tenth.share_se
    assert memorisation(Nearest.of(TRAIN, TRAIN), held_out).ratio == 0.0


def test_jackknife_error_of_the_ratio_matches_its_spread_over_independent_sets() -> None:
    found = []
    for seed in range(40):
        rng = np.random.default_rng([1, seed])
        near, expected = rng.gamma(9.0, size=600), rng.gamma(9.0, size=400)
        rows = np.arange(600)
        found.append(memorisation(Nearest(rows, rows, near), Nearest(rows[:400], rows[:400], expected)))
    for name in ("ratio", "share"):
        spread = np.std([getattr(m, name) for m in found], ddof=1)
        assert np.mean([getattr(m, f"{name}_se") for m in found]) == pytest.approx(spread, rel=0.4)


def test_too_few_images_and_a_useless_held_out_set_are_refused() -> None:
    honest = Nearest.of(HONEST, TRAIN)
    with pytest.raises(ValueError, match="20 images on both sides, found 500 generated and 5 held-out"):
        memorisation(honest, Nearest.of(HELD_OUT[:5], TRAIN))
    with pytest.raises(ValueError, match="most held-out images are copies of training images"):
        memorisation(honest, Nearest.of(TRAIN, TRAIN))
    with pytest.raises(ValueError, match="compared images hold NaN"):
        Nearest.of(np.full((3, 48), np.nan), TRAIN)
