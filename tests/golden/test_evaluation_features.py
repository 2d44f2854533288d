"""Feature-set metrics against public reference code; arrays and tolerances: evaluation/features.md."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate import FeatureStatistics, frechet_distance, kernel_distance, precision_recall
from pipeline.evaluate.cmmd import cmmd
from pipeline.evaluate.frechet import extrapolated_distance
from pipeline.evaluate.inception_score import inception_score
from pipeline.evaluate.neighbours import density_coverage, kernel_distance_of_subsets, precision_recall_density_coverage

CASES = ("a", "b", "rankdef", "uneq")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "evaluation" / "features.npz") as arrays:
        return dict(arrays)


def frechet(golden: dict[str, np.ndarray], case: str) -> float:
    real, fake = (FeatureStatistics.of(golden[f"{case}__{side}"]) for side in ("real", "fake"))
    return frechet_distance(real, fake)


@pytest.mark.parametrize("case", CASES)
def test_frechet_distance_equals_the_nuclear_norm_reference(golden: dict[str, np.ndarray], case: str) -> None:
    assert frechet(golden, case) == pytest.approx(float(golden[f"{case}__fd_svd"]), rel=1e-10)


@pytest.mark.parametrize("case", ["a", "uneq"])
def test_frechet_distance_equals_forty_digit_arithmetic(golden: dict[str, np.ndarray], case: str) -> None:
    assert frechet(golden, case) == pytest.approx(float(golden[f"{case}__fd_mpmath"]), rel=1e-11)


@pytest.mark.parametrize("case", ["a", "b", "uneq"])
def test_frechet_distance_equals_the_peers_where_covariances_are_regular(
    golden: dict[str, np.ndarray], case: str
) -> None:
    for peer in ("fd_torch_fidelity_f64", "fd_pytorch_fid"):
        assert frechet(golden, case) == pytest.approx(float(golden[f"{case}__{peer}"]), rel=1e-7)


def test_frechet_distance_of_commuting_covariances_with_zeros_equals_the_closed_form(
    golden: dict[str, np.ndarray],
) -> None:
    a, b = (
        FeatureStatistics.from_moments(golden[f"closed__mu{i}"], golden[f"closed__sigma{i}"], n=1000) for i in (1, 2)
    )
    assert frechet_distance(a, b) == pytest.approx(float(golden["closed__fd"]), abs=5e-6)


def test_frechet_distance_of_prefixes_equals_the_extrapolation_points(golden: dict[str, np.ndarray]) -> None:
    real = FeatureStatistics.of(golden["a__real"])
    for n, value in zip(golden["fdinf__n"], golden["fdinf__fd"], strict=True):
        assert frechet_distance(real, FeatureStatistics.of(golden["a__fake"][:n])) == pytest.approx(value, rel=1e-9)


def test_distance_at_infinity_equals_the_line_through_the_prefixes(golden: dict[str, np.ndarray]) -> None:
    real = FeatureStatistics.of(golden["a__real"])
    counts = golden["fdinf__n"]
    distances = [frechet_distance(real, FeatureStatistics.of(golden["a__fake"][:n])) for n in counts]
    found = extrapolated_distance(counts, distances)
    assert found.intercept == pytest.approx(float(golden["fdinf__intercept"]), rel=1e-9)
    assert found.slope == pytest.approx(float(golden["fdinf__slope"]), rel=1e-9)
    with pytest.raises(ValueError, match="two of them different"):
        extrapolated_distance([5, 5], [1.0, 2.0])


@pytest.mark.parametrize("case", CASES)
def test_kernel_distance_equals_the_full_u_statistic(golden: dict[str, np.ndarray], case: str) -> None:
    value = kernel_distance(golden[f"{case}__real"], golden[f"{case}__fake"])
    assert value == pytest.approx(float(golden[f"{case}__kid_full_unbiased"]), rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_kernel_distance_of_subsets_equals_torch_fidelity(golden: dict[str, np.ndarray], case: str) -> None:
    mean, std = kernel_distance_of_subsets(
        golden[f"{case}__real"],
        golden[f"{case}__fake"],
        num_subsets=int(golden[f"{case}__kid_subsets"]),
        subset_size=int(golden[f"{case}__kid_subset_size"]),
        seed=int(golden[f"{case}__kid_rng_seed"]),
    )
    assert mean == pytest.approx(float(golden[f"{case}__kid_mean"]), rel=1e-9)
    assert std == pytest.approx(float(golden[f"{case}__kid_std"]), rel=1e-9)


@pytest.mark.parametrize(("case", "k"), [*((case, k) for case in CASES for k in (3, 5)), ("ties", 1), ("ties", 3)])
def test_neighbour_metrics_equal_torch_fidelity_and_prdc(golden: dict[str, np.ndarray], case: str, k: int) -> None:
    real, fake = golden[f"{case}__real"], golden[f"{case}__fake"]
    closed, strict = precision_recall(real, fake, k=k), precision_recall(real, fake, k=k, is_strict=True)
    balls = density_coverage(real, fake, k=k)
    assert closed.precision == pytest.approx(float(golden[f"{case}__precision_k{k}_le"]), abs=1e-6)
    assert closed.recall == pytest.approx(float(golden[f"{case}__recall_k{k}_le"]), abs=1e-6)
    assert strict.precision == pytest.approx(float(golden[f"{case}__precision_k{k}_lt"]), abs=1e-12)
    assert strict.recall == pytest.approx(float(golden[f"{case}__recall_k{k}_lt"]), abs=1e-12)
    assert balls.density == pytest.approx(float(golden[f"{case}__density_k{k}_lt"]), abs=1e-12)
    assert balls.coverage == pytest.approx(float(golden[f"{case}__coverage_k{k}_lt"]), abs=1e-12)


@pytest.mark.parametrize("case", [*CASES, "ties"])
def test_one_pass_equals_torch_fidelity_and_prdc(golden: dict[str, np.ndarray], case: str) -> None:
    real, fake = golden[f"{case}__real"], golden[f"{case}__fake"]
    k_dc = 3 if case == "ties" else 5
    found = precision_recall_density_coverage(real, fake, k_pr=3, k_dc=k_dc)
    assert found.precision == pytest.approx(float(golden[f"{case}__precision_k3_le"]), abs=1e-6)
    assert found.recall == pytest.approx(float(golden[f"{case}__recall_k3_le"]), abs=1e-6)
    assert found.density == pytest.approx(float(golden[f"{case}__density_k{k_dc}_lt"]), abs=1e-12)
    assert found.coverage == pytest.approx(float(golden[f"{case}__coverage_k{k_dc}_lt"]), abs=1e-12)


@pytest.mark.parametrize("shuffle", [0, 1])
@pytest.mark.parametrize("num_splits", [1, 10])
def test_inception_score_equals_torch_fidelity(golden: dict[str, np.ndarray], num_splits: int, shuffle: int) -> None:
    found = inception_score(golden["is__logits"], num_splits=num_splits, shuffle_seed=2020 if shuffle else None)
    for name in ("mean", "std"):
        expected = float(golden[f"is__splits{num_splits}_shuffle{shuffle}_{name}"])
        assert getattr(found, name) == pytest.approx(expected, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("case", ["a", "b"])
def test_cmmd_equals_the_biased_estimator(golden: dict[str, np.ndarray], case: str) -> None:
    expected = float(golden[f"{case}__cmmd_sigma10_scale1000"])
    assert cmmd(golden[f"{case}__real"], golden[f"{case}__fake"]) == pytest.approx(expected, rel=1e-9)
