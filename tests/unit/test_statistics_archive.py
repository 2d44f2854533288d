"""Statistics in files: public layouts come in, ours can be read by others, and foreign statistics do not meet."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import DataError
from pipeline.evaluate import FeatureStatistics, frechet_distance
from pipeline.evaluate.archive import (
    StatisticsMeta,
    read_statistics_npz,
    read_statistics_pickle,
    require_same,
    write_statistics_npz,
)

FEATURES = np.random.default_rng(0).standard_normal((300, 6)) @ np.diag([3.0, 2.0, 1.0, 1.0, 0.5, 0.1])
STATISTICS = FeatureStatistics.of(FEATURES)
META = StatisticsMeta(n=300, net_sha256="a" * 64, preprocessing="tf1-299", dataset="squares-train")


def public(path: Path, **arrays: Any) -> Path:
    np.savez(path, allow_pickle=True, **({"mu": STATISTICS.mean, "sigma": STATISTICS.covariance} | arrays))
    return path


def test_written_statistics_come_back_with_what_they_belong_to(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    write_statistics_npz(path, STATISTICS, net_sha256="a" * 64, preprocessing="tf1-299", dataset="squares-train")
    back, meta = read_statistics_npz(path)
    assert meta == META
    assert back.n == 300
    np.testing.assert_array_equal(back.mean, STATISTICS.mean)
    np.testing.assert_allclose(back.covariance, STATISTICS.covariance, rtol=1e-15)


def test_written_statistics_have_the_arrays_that_public_tools_read(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    write_statistics_npz(path, STATISTICS, net_sha256="a" * 64, preprocessing="tf1-299", dataset="squares-train")
    with np.load(path) as stored:  # pytorch-fid, clean-fid, EDM
        mu, sigma = stored["mu"][:], stored["sigma"][:]
    np.testing.assert_allclose(mu, FEATURES.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(FEATURES.T), rtol=1e-12)


def test_the_same_statistics_are_written_byte_for_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_statistics_npz(tmp_path / name, STATISTICS, net_sha256="x", preprocessing="y", dataset="z")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_public_npz_of_moments_gives_the_same_distance(tmp_path: Path, dtype: type) -> None:
    path = public(tmp_path / "edm.npz", mu=STATISTICS.mean.astype(dtype), sigma=STATISTICS.covariance.astype(dtype))
    back, meta = read_statistics_npz(path)
    assert meta == StatisticsMeta()
    other = FeatureStatistics.of(FEATURES[:200] + 0.3)
    assert frechet_distance(back, other) == pytest.approx(frechet_distance(STATISTICS, other), rel=1e-5)


def test_public_npz_of_features_gives_their_moments(tmp_path: Path) -> None:
    np.savez(tmp_path / "kid.npz", feats=FEATURES)
    back, meta = read_statistics_npz(tmp_path / "kid.npz")
    assert meta.n == back.n == 300
    np.testing.assert_array_equal(back.scatter, STATISTICS.scatter)


def test_what_is_stated_about_a_public_file_completes_it(tmp_path: Path) -> None:
    back, meta = read_statistics_npz(public(tmp_path / "edm.npz"), META)
    assert meta == META
    assert back.n == 300


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_an_edm2_pickle_is_read_by_entry(tmp_path: Path, protocol: int) -> None:
    moments = {"mu": STATISTICS.mean, "sigma": STATISTICS.covariance}
    path = tmp_path / "img512.pkl"
    path.write_bytes(pickle.dumps({"num_images": 300, "fid": moments, "fd_dinov2": {}}, protocol=protocol))
    back, meta = read_statistics_pickle(path, "fid")
    assert meta == StatisticsMeta(n=300)
    np.testing.assert_allclose(back.covariance, STATISTICS.covariance, rtol=1e-15)
    with pytest.raises(DataError, match=r"no entry 'fd_clip'; found fd_dinov2, fid"):
        read_statistics_pickle(path, "fd_clip")


class Opens:
    """A pickle of it makes a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"fid": Opens(victim)}))
    with pytest.raises(DataError, match=r"the pickle asks for .*; only arrays and numbers are read"):
        read_statistics_pickle(path, "fid")
    assert not victim.exists()


def test_objects_in_an_npz_are_refused_unread(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    path = public(tmp_path / "evil.npz", mu=np.array([Opens(victim)], dtype=object))
    with pytest.raises(DataError, match="not an npz of plain arrays"):
        read_statistics_npz(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"mu": np.full(6, np.nan)}, "mu or sigma hold NaN"),
        ({"mu": np.zeros(5)}, r"expected floats of shapes \(dim,\) and \(dim, dim\)"),
        ({"mu": np.zeros(6, np.int64)}, "mu is int64"),
        ({"sigma": np.triu(np.ones((6, 6)))}, "sigma is no covariance"),
        ({"sigma": -np.eye(6)}, "sigma is no covariance"),
        ({"n": np.array(1)}, "n = 1; a covariance needs two images"),
        ({"n": np.array([3, 4])}, "expected one value"),
    ],
)
def test_arrays_that_are_no_statistics_are_refused(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_statistics_npz(public(tmp_path / "bad.npz", **arrays))


def test_files_without_statistics_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(public(tmp_path / "whole.npz").read_bytes()[:200])
    for name, sentence in [
        ("other.npz", "found weights, expected mu and sigma, or feats"),
        ("one.npy", "one array"),
        ("cut.npz", "not an npz of plain arrays"),
        ("absent.npz", "no such file"),
    ]:
        with pytest.raises(DataError, match=sentence):
            read_statistics_npz(tmp_path / name)


def test_a_file_that_says_something_else_than_was_stated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    write_statistics_npz(path, STATISTICS, net_sha256="a" * 64, preprocessing="tf1-299", dataset="squares-train")
    with pytest.raises(DataError, match="preprocessing is tf1-299, not clean-299"):
        read_statistics_npz(path, StatisticsMeta(preprocessing="clean-299"))


@pytest.mark.parametrize("name", ["net_sha256", "preprocessing", "dataset"])
def test_statistics_that_differ_or_do_not_say_never_meet(name: str) -> None:
    fields = {"n": 5, "net_sha256": "a", "preprocessing": "b", "dataset": "c"}
    require_same(StatisticsMeta(**fields), StatisticsMeta(**fields | {"n": 7}))
    with pytest.raises(DataError, match=f"statistics of different {name} have no distance"):
        require_same(StatisticsMeta(**fields), StatisticsMeta(**fields | {name: "other"}))
    with pytest.raises(DataError, match=f"statistics without {name} cannot be compared"):
        require_same(StatisticsMeta(**fields), StatisticsMeta(**fields | {name: None}))
