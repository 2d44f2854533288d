"""Moments, Frechet distance and jackknife: identities and closed forms."""

import numpy as np
import pytest

from pipeline.evaluate import FeatureStatistics, frechet_distance, kernel_distance, precision_recall
from pipeline.evaluate.frechet import rank_cut_trace_root
from pipeline.evaluate.jackknife import block_statistics, jackknife, mean_difference
from pipeline.evaluate.statistics import merged, packed, unpacked

RNG = np.random.default_rng(7)
FEATURES = RNG.normal(size=(600, 12)) @ RNG.normal(size=(12, 12)) + 5.0


def groups_of(features: np.ndarray, size: int) -> list[FeatureStatistics]:
    return [FeatureStatistics.of(features[i : i + size]) for i in range(0, len(features), size)]


def test_merged_groups_equal_the_moments_of_the_whole() -> None:
    whole, tree = FeatureStatistics.of(FEATURES), merged(groups_of(FEATURES, 70))
    assert tree.n == whole.n
    np.testing.assert_allclose(tree.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(tree.scatter, whole.scatter, rtol=1e-11, atol=1e-9)


def test_covariance_equals_numpy() -> None:
    np.testing.assert_allclose(FeatureStatistics.of(FEATURES).covariance, np.cov(FEATURES.T), rtol=1e-12)


def test_without_is_the_inverse_of_merge() -> None:
    a, b = FeatureStatistics.of(FEATURES[:400]), FeatureStatistics.of(FEATURES[400:])
    back = a.merge(b).without(b)
    assert back.n == a.n
    np.testing.assert_allclose(back.mean, a.mean, rtol=1e-12)
    np.testing.assert_allclose(back.scatter, a.scatter, rtol=1e-9, atol=1e-9)


def test_taking_everything_out_is_an_error() -> None:
    a = FeatureStatistics.of(FEATURES)
    with pytest.raises(ValueError, match="cannot take"):
        a.without(a)


def test_packed_statistics_come_back_bit_equal() -> None:
    parts = groups_of(FEATURES, 100)
    arrays = packed(parts)
    for part, back in zip(parts, unpacked(arrays["count"], arrays["mean"], arrays["scatter"]), strict=True):
        assert part.n == back.n
        np.testing.assert_array_equal(part.mean, back.mean)
        np.testing.assert_array_equal(part.scatter, back.scatter)


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros(3), np.full((4, 2), np.nan)])
def test_features_without_moments_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features"):
        FeatureStatistics.of(bad)


def spectrum(values: np.ndarray, seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T


@pytest.mark.parametrize(
    "values",
    [np.linspace(0.5, 2.0, 24), np.geomspace(1e-9, 1.0, 24), np.r_[np.zeros(8), np.geomspace(1e-6, 1e2, 16)]],
    ids=["regular", "ill-conditioned", "rank-deficient"],
)
def test_distance_of_a_set_to_itself_is_zero(values: np.ndarray) -> None:
    a = FeatureStatistics.from_moments(np.ones(24), spectrum(values, 3), n=500)
    assert frechet_distance(a, a) <= 1e-9


def test_distance_of_two_gaussians_equals_the_closed_form() -> None:
    variances = np.geomspace(1e-3, 10.0, 16)
    scaled = np.linspace(0.2, 3.0, 16)
    a = FeatureStatistics.from_moments(np.zeros(16), spectrum(variances, 1), n=300)
    b = FeatureStatistics.from_moments(np.full(16, 0.5), spectrum(variances * scaled, 1), n=300)
    expected = 16 * 0.25 + (variances * (1.0 - np.sqrt(scaled)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_fast_and_rank_cut_paths_agree_on_regular_covariances() -> None:
    a, b = FeatureStatistics.of(FEATURES[:300]), FeatureStatistics.of(FEATURES[300:] * 1.3)
    trace = float(np.trace(a.covariance + b.covariance))
    slow = float(((a.mean - b.mean) ** 2).sum()) + trace - 2 * rank_cut_trace_root(a.covariance, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(slow, rel=1e-11)


def test_dead_features_do_not_disturb_the_distance() -> None:
    a, b = FEATURES[:300], FEATURES[300:] + 1.0
    pad = np.zeros((300, 5))
    bare = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    padded = frechet_distance(FeatureStatistics.of(np.hstack([a, pad])), FeatureStatistics.of(np.hstack([b, pad])))
    assert padded == pytest.approx(bare, rel=1e-10)


def test_constant_sets_are_as_far_apart_as_their_means() -> None:
    a, b = FeatureStatistics.of(np.zeros((5, 3))), FeatureStatistics.of(np.ones((5, 3)))
    assert frechet_distance(a, b) == pytest.approx(3.0, abs=1e-12)


def test_distance_across_feature_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="dimensions"):
        frechet_distance(FeatureStatistics.of(FEATURES), FeatureStatistics.of(FEATURES[:, :4]))


def test_jackknife_of_a_mean_is_the_textbook_standard_error() -> None:
    x = RNG.normal(size=(400, 1))
    knife = jackknife(groups_of(x, 20), lambda s: float(s.mean[0]), num_blocks=20)
    block_means = x.reshape(20, 20).mean(axis=1)
    assert knife.corrected == pytest.approx(x.mean(), rel=1e-10)
    assert knife.se == pytest.approx(block_means.std(ddof=1) / np.sqrt(20), rel=1e-9)


def test_jackknife_removes_the_bias_of_a_plug_in_variance_exactly() -> None:
    x = RNG.normal(size=(400, 1))
    knife = jackknife(groups_of(x, 1), lambda s: float(s.scatter[0, 0] / s.n), num_blocks=400)
    assert knife.corrected == pytest.approx(x.var(ddof=1), rel=1e-9)


def test_jackknife_error_of_the_distance_matches_its_spread_over_independent_sets() -> None:
    rng = np.random.default_rng(5)
    reference = FeatureStatistics.from_moments(np.zeros(6), np.eye(6), n=10**6)
    knives = []
    for _ in range(60):
        x = rng.normal(size=(400, 6)) * 1.2 + 0.1
        knives.append(jackknife(groups_of(x, 20), lambda s: frechet_distance(s, reference)))
    spread = np.std([k.value for k in knives], ddof=1)
    assert np.mean([k.se for k in knives]) == pytest.approx(spread, rel=0.35)
    truth = 6 * 0.01 + 6 * 0.2**2
    raw_bias, corrected_bias = (np.mean([getattr(k, n) for k in knives]) - truth for n in ("value", "corrected"))
    assert abs(corrected_bias) < abs(raw_bias) / 2


def test_jackknife_blocks_cover_every_group_once_and_are_nearly_equal() -> None:
    groups = groups_of(RNG.normal(size=(1037, 2)), 10)
    blocks = block_statistics(groups, 20)
    assert len(blocks) == 20
    assert sum(b.n for b in blocks) == 1037
    assert max(b.n for b in blocks) - min(b.n for b in blocks) <= 10 + 10


def test_too_few_groups_for_the_jackknife_are_refused() -> None:
    with pytest.raises(ValueError, match="20 jackknife blocks"):
        jackknife(groups_of(FEATURES, 100), lambda s: float(s.mean[0]))


def test_pairing_removes_what_two_samples_share() -> None:
    shared = RNG.normal(size=200)
    a, b = shared + 0.05 * RNG.normal(size=200) + 0.1, shared + 0.05 * RNG.normal(size=200)
    paired, unpaired = (mean_difference(a, b, is_paired=p) for p in (True, False))
    assert paired.is_significant
    assert not unpaired.is_significant
    assert paired.difference == unpaired.difference


def test_identical_samples_do_not_differ() -> None:
    x = RNG.normal(size=50)
    assert not mean_difference(x, x, is_paired=True).is_significant


def test_kernel_distance_is_unbiased_around_zero_for_equal_distributions() -> None:
    rng = np.random.default_rng(11)
    values = [kernel_distance(rng.normal(size=(80, 4)), rng.normal(size=(50, 4))) for _ in range(80)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(80)


def test_points_far_from_the_data_have_no_precision_and_one_mode_has_no_full_recall() -> None:
    real = np.r_[RNG.normal(size=(100, 2)), RNG.normal(size=(100, 2)) + 50.0]
    assert precision_recall(real, RNG.normal(size=(50, 2)) - 500.0).precision == 0.0
    one_mode = precision_recall(real, RNG.normal(size=(100, 2)))
    assert one_mode.precision > 0.9
    assert one_mode.recall < 0.6


def test_duplicates_far_from_the_origin_keep_their_zero_distance() -> None:
    x = RNG.normal(size=(40, 3)) + 1e6
    assert precision_recall(x, x, k=1) == (1.0, 1.0)
