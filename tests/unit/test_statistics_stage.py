"""Data statistics: exact under any merge order, and equal to what their names say."""

import hashlib
import itertools
import math
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import DataError
from pipeline.diffusion.bases import build_basis
from pipeline.ingest import statistics
from pipeline.ingest.moments import Moments, moments_of
from pipeline.ingest.statistics import StatisticsSpec, gaussian_nll_bpd, principal_components
from pipeline.shards import to_float
from tests.shard_cases import FolderArtifact, ingested, quiet, random_images, written

SHAPE = (2, 4, 4)
DIM = 32
GOLDEN_MOMENTS = "f1ef0b44ee50132e19cb61b44e8b7b8daa6efc5db990589e41b11a9a86861006"


def images(count: int = 100, *, levels: int = 256) -> np.ndarray:
    """Correlated images with constant pixels, so that the covariance has no full rank."""
    values = random_images(count, shape=SHAPE, levels=levels).astype(int)
    values = (values + values[:, :1, :1, :1]) // 2
    values[:, :, 0, 0] = 3
    return values.astype(np.uint8)


def run(
    folder: Path, data: np.ndarray, *, quantisation: int | None = 256, limit: int = 4096
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Meta and arrays of the statistics of `data`."""
    folder.mkdir(exist_ok=True)
    artifact = written(folder, data, np.arange(len(data)) % 10, quantisation=quantisation)
    meta = statistics.run(StatisticsSpec(covariance_limit=limit), {"dataset": artifact}, FolderArtifact(folder), quiet)
    with np.load(folder / "statistics.npz", allow_pickle=False) as arrays:
        return meta, dict(arrays)


def parts(data: np.ndarray, *, quantisation: int = 256) -> list[Moments]:
    options: dict[str, Any] = {"quantisation": quantisation, "num_classes": None, "is_full": True}
    return [moments_of(part, None, **options) for part in np.array_split(data, [13, 40, 41])]


@pytest.mark.parametrize("levels", [256, 17])
def test_shards_merge_in_any_order_to_the_same_bits(levels: int) -> None:
    results: set[bytes] = set()
    for order in itertools.permutations(parts(images(levels=levels), quantisation=levels)):
        merged = reduce(Moments.merged, order)
        results.add(merged.mean(levels).tobytes() + merged.covariance(levels).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("levels", [256, 17, 2])
def test_integer_sums_give_the_covariance_of_the_bin_centres(levels: int) -> None:
    data = images(levels=levels)
    x = to_float(data, levels).reshape(len(data), -1).astype(np.float64)
    merged = reduce(Moments.merged, parts(data, quantisation=levels))
    np.testing.assert_allclose(merged.mean(levels), x.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(merged.covariance(levels), np.cov(x.T, bias=True), atol=1e-7)
    np.testing.assert_allclose(merged.variances(levels), x.var(axis=0), atol=1e-7)


def test_extreme_levels_do_not_overflow() -> None:
    data = np.zeros((70000, 2), np.uint8)
    data[::2] = 255
    moments = moments_of(data, None, quantisation=256, num_classes=None, is_full=True)
    assert moments.products is not None
    assert moments.products[0, 1] == 35000 * (128**2 + 127**2)
    assert moments.squares[0] == moments.products[0, 0]


@pytest.mark.parametrize("levels", [256, 17])
def test_every_variance_holds_the_floor(tmp_path: Path, levels: int) -> None:
    meta, arrays = run(tmp_path, images(levels=levels), quantisation=levels)
    floor = (2 / levels) ** 2 / 12
    assert meta["floor"] == floor
    assert arrays["variances_pca"].min() == pytest.approx(floor, rel=1e-9)
    assert arrays["variances_pixel"].min() == pytest.approx(floor, rel=1e-9)


def test_principal_components_fall_and_rebuild_the_covariance(tmp_path: Path) -> None:
    _, arrays = run(tmp_path, images())
    rows, variances = arrays["pca_components"], arrays["variances_pca"]
    assert (np.diff(variances) <= 0).all()
    np.testing.assert_allclose(rows @ rows.T, np.eye(DIM), atol=1e-12)
    np.testing.assert_allclose(rows.T * variances @ rows, arrays["covariance"], atol=1e-12)


def test_component_signs_are_fixed() -> None:
    covariance = np.diag([1.0, 2.0, 3.0]) + 0.1
    _, rows = principal_components(covariance, smallest=0.0)
    assert (rows[np.arange(3), np.abs(rows).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("basis", ["pixel", "dct", "haar", "fourier"])
def test_basis_variances_are_those_of_the_components(tmp_path: Path, basis: str) -> None:
    data = images()
    meta, arrays = run(tmp_path, data)
    components = build_basis(basis, SHAPE).to_components(torch.from_numpy(to_float(data, 256)).double()).numpy()
    np.testing.assert_allclose(arrays[f"variances_{basis}"], components.var(axis=0) + meta["floor"], rtol=1e-6)


def test_above_the_limit_variances_are_the_same_without_a_covariance(tmp_path: Path) -> None:
    _, full = run(tmp_path / "full", images())
    meta, lean = run(tmp_path / "lean", images(), limit=DIM - 1)
    assert set(full) - set(lean) == {"covariance", "pca_components", "variances_pca"}
    for name in lean:
        np.testing.assert_allclose(lean[name], full[name], rtol=1e-6)
    assert meta["gaussian_nll_bpd"] is None
    assert "covariance limit" in meta["gaussian_nll_absent"]


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    run(tmp_path / "a", images())
    run(tmp_path / "b", images())
    first, second = ((tmp_path / name / "statistics.npz").read_bytes() for name in "ab")
    assert first == second


def test_classes_are_counted(tmp_path: Path) -> None:
    _, arrays = run(tmp_path, images(104))
    assert arrays["class_counts"].tolist() == [11] * 4 + [10] * 6


def test_gaussian_nll_is_the_mean_over_dequantised_test_images(tmp_path: Path) -> None:
    artifact = ingested({"kind": "digits"}, tmp_path)
    meta = statistics.run(StatisticsSpec(), {"dataset": artifact}, artifact, quiet)
    with np.load(tmp_path / "statistics.npz") as arrays:
        gaussian = torch.distributions.MultivariateNormal(
            torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["covariance"])
        )
    from sklearn.datasets import load_digits

    levels = load_digits().data[-360:]
    draws = [2 * (levels + np.random.default_rng(seed).random(levels.shape)) / 17 - 1 for seed in range(40)]
    nats = -np.mean([gaussian.log_prob(torch.from_numpy(x)).mean().item() for x in draws])
    assert meta["gaussian_nll_bpd"] == pytest.approx(nats / (64 * math.log(2)) + math.log2(17 / 2), abs=2e-3)


def declared(folder: Path, variances: list[float], **more: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Meta and arrays of the statistics of a Gaussian with these variances."""
    artifact = ingested({"kind": "gaussian", "variances": variances, **more}, folder)
    meta = statistics.run(StatisticsSpec(), {"dataset": artifact}, artifact, quiet)
    with np.load(folder / "statistics.npz", allow_pickle=False) as arrays:
        return meta, dict(arrays)


def test_declared_moments_are_the_statistics_to_the_last_bit(tmp_path: Path) -> None:
    variances, mean = [0.1, 3.7, 1e-7, 0.3], [0.5, -0.25, 0.1, 0.0]
    meta, arrays = declared(tmp_path, variances, mean=mean, num_train=40, num_test=7)
    assert arrays["variances_pixel"].tolist() == variances
    assert arrays["variances_pca"].tolist() == sorted(variances, reverse=True)
    assert arrays["pca_components"].tolist() == np.eye(4)[[1, 3, 0, 2]].tolist()
    assert arrays["mean"].tolist() == mean
    np.testing.assert_array_equal(arrays["covariance"], np.diag(variances))
    assert (meta["count"], meta["test_count"], meta["floor"]) == (40, 7, 0.0)


def test_variances_of_declared_moments_in_other_bases_have_their_sum(tmp_path: Path) -> None:
    variances = [0.1, 3.7, 1e-7, 0.3]
    _, arrays = declared(tmp_path, variances)
    for basis in ("dct", "haar", "fourier"):
        assert arrays[f"variances_{basis}"].sum() == pytest.approx(sum(variances), rel=1e-12)
        assert arrays[f"variances_{basis}"].std() < np.std(variances)


def test_the_likelihood_of_declared_moments_is_their_entropy(tmp_path: Path) -> None:
    meta, _ = declared(tmp_path, [0.1, 3.7])
    entropy = 0.5 * (math.log(2 * math.pi * math.e * 0.1) + math.log(2 * math.pi * math.e * 3.7))
    assert meta["gaussian_nll_bpd"] == pytest.approx(entropy / 2 / math.log(2), rel=1e-12)
    assert meta["gaussian_nll_train_bpd"] == meta["gaussian_nll_bpd"]


def test_the_training_likelihood_is_the_entropy(tmp_path: Path) -> None:
    meta, arrays = run(tmp_path, images())
    _, log_det = np.linalg.slogdet(2 * math.pi * math.e * arrays["covariance"])
    assert meta["gaussian_nll_train_bpd"] == pytest.approx(log_det / 2 / DIM / math.log(2) + 7, abs=1e-9)


def test_points_have_no_quantisation_offset(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    meta, arrays = run(tmp_path, points, quantisation=None)
    np.testing.assert_allclose(arrays["covariance"], np.cov(points.T.astype(np.float64), bias=True), atol=1e-9)
    assert meta["gaussian_nll_train_bpd"] == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=0.1)


def test_a_standard_gaussian_has_its_known_bits() -> None:
    ones = np.ones(4)
    assert gaussian_nll_bpd(ones, ones, None) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e))
    assert gaussian_nll_bpd(ones, ones, 256) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) + 7)


def test_data_without_variance_and_without_resolution_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no variance"):
        run(tmp_path, np.ones((10, 2), np.float32), quantisation=None)


def test_points_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    points = np.ones((10, 2), np.float32)
    points[3, 1] = np.nan
    with pytest.raises(DataError, match=r"not finite|not numbers"):
        run(tmp_path, points, quantisation=None)


def test_another_output_needs_another_stage_version(tmp_path: Path) -> None:
    _, arrays = run(tmp_path, images())
    digest = hashlib.sha256(arrays["mean"].tobytes() + arrays["covariance"].tobytes()).hexdigest()
    assert (statistics.STAGE_VERSION, digest) == (1, GOLDEN_MOMENTS)
