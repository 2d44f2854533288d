"""From a source to a verified data set artifact."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest

from pipeline.config import DataError
from pipeline.ingest import stage
from pipeline.ingest.ray import RayShardMap
from pipeline.ingest.sources import source_digest
from pipeline.shards import read_split
from pipeline.store import Key, fingerprint, open_store
from tests.shard_cases import FolderArtifact, idx_files, ingested, png, quiet, random_images, source, write_folder

GOLDEN_DIGITS = [
    "14d35582ffdae2b60e830c22afd8ab5b0a1eea42672857dbb794b0f682e293fe",
    "bed83e31c11752958e9a001b923a1b65f23facef550524c52e388fa83f945ec2",
]
SMALL_SHARDS = {"samples_per_block": 4, "samples_per_shard": 8}


def backwards(function: Callable[[Any], Any], jobs: Sequence[Any], /) -> Iterable[Any]:
    """A map that works from the last job to the first."""
    return [function(job) for job in reversed(jobs)][::-1]


def files_of(artifact: FolderArtifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact.folder.iterdir()}


@pytest.fixture
def idx(tmp_path: Path) -> dict[str, Any]:
    return {"kind": "idx", "uri": str(write_folder(tmp_path / "idx", idx_files())), **SMALL_SHARDS}


def test_meta_says_what_readers_need(idx: dict[str, Any], tmp_path: Path) -> None:
    meta = ingested(idx, tmp_path / "out").meta
    assert (meta["shape"], meta["num_classes"], meta["quantisation"]) == ([1, 5, 5], 3, 256)
    assert [split["count"] for split in meta["splits"].values()] == [40, 10]
    assert [shard["samples"] for shard in meta["splits"]["test"]["shards"]] == [8, 2]


def test_limits_keep_the_first_samples(idx: dict[str, Any], tmp_path: Path) -> None:
    whole = read_split(ingested(idx, tmp_path / "whole"), "train")
    part = read_split(ingested(idx | {"max_train": 13, "max_test": 0}, tmp_path / "part"), "train")
    np.testing.assert_array_equal(part.images, whole.images[:13])


def test_the_location_does_not_identify_the_data(idx: dict[str, Any], tmp_path: Path) -> None:
    moved = idx | {"uri": "moved"}
    write_folder(tmp_path / "moved", idx_files())
    assert source(idx).identity() == source(moved, tmp_path).identity()


def test_the_content_identifies_the_data(idx: dict[str, Any], tmp_path: Path) -> None:
    other = idx | {"uri": str(write_folder(tmp_path / "other", idx_files(seed=1)))}
    assert source(idx).identity() != source(other).identity()


def test_a_wrong_digest_is_refused_at_plan_time(idx: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"has digest .*, expected 0{64}"):
        source(idx | {"digest": "0" * 64})


def test_data_that_change_after_the_plan_are_refused(idx: dict[str, Any], tmp_path: Path) -> None:
    spec = source(idx)
    write_folder(tmp_path / "idx", idx_files(seed=2))
    with pytest.raises(DataError, match="the data changed"):
        stage.run(spec, {}, FolderArtifact(tmp_path), quiet)


def test_a_source_that_is_its_specification_has_no_digest() -> None:
    tree = {"kind": "gaussian_mixture", "weights": [1.0], "means": [[0.0]], "variances": [[1.0]]}
    assert source_digest(source(tree), ".") is None


def test_shards_do_not_depend_on_the_order_of_work(idx: dict[str, Any], tmp_path: Path) -> None:
    forwards = ingested(idx, tmp_path / "a")
    assert files_of(ingested(idx, tmp_path / "b", shard_map=backwards)) == files_of(forwards)


def test_progress_counts_shards(idx: dict[str, Any], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    stage.run(source(idx), {}, FolderArtifact(tmp_path), lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(8)]


def test_a_bad_image_is_named_and_never_skipped(tmp_path: Path) -> None:
    files = {f"a/{i}.png": png(image) for i, image in enumerate(random_images(20, shape=(3, 6, 6)))}
    files["a/7.png"] = files["a/7.png"][:60]
    write_folder(tmp_path / "in", files)
    with pytest.raises(DataError, match=r"a/7\.png: the image is damaged"):
        ingested({"kind": "image_folder", "uri": str(tmp_path / "in")}, tmp_path / "out")


def test_artifacts_of_a_real_store_are_read_back(idx: dict[str, Any], tmp_path: Path) -> None:
    store, spec = open_store(str(tmp_path / "store")), source(idx)
    key = Key(stage.STAGE, fingerprint(stage.STAGE, stage.STAGE_VERSION, spec.identity(), {}))
    with store.attempt(key, identity=spec.identity(), inputs={}) as attempt:
        artifact = attempt.commit(meta=stage.run(spec, {}, attempt, quiet))
    np.testing.assert_array_equal(
        read_split(artifact, "train").images, read_split(ingested(idx, tmp_path / "plain"), "train").images
    )


@pytest.mark.slow
def test_ray_tasks_make_the_same_shards(idx: dict[str, Any], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        spread = ingested(idx, tmp_path / "ray", shard_map=RayShardMap())
        assert files_of(spread) == files_of(ingested(idx, tmp_path / "alone"))
        write_folder(tmp_path / "idx", {"t10k-labels-idx1-ubyte": b"damaged"})
        broken = source(idx).model_copy(update={"digest": None})
        jobs = [stage.ShardJob(broken, "train", 0, 0, 8)]
        with pytest.raises(DataError, match="not with the magic"):
            list(RayShardMap()(stage.make_shard, jobs))
    finally:
        ray.shutdown()


def real_data(name: str) -> Path:
    """A folder below `PIPELINE_DATA`, or a skip that says what is missing."""
    root = os.environ.get("PIPELINE_DATA")
    if root is None or not (Path(root) / name).exists():
        pytest.skip(f"PIPELINE_DATA is not set or has no {name}")
    return Path(root)


def test_mnist_has_its_known_sizes(tmp_path: Path) -> None:
    root = real_data("mnist")
    artifact = ingested({"kind": "idx", "uri": "mnist"}, tmp_path, root)
    train, test = read_split(artifact, "train"), read_split(artifact, "test")
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.images.mean() == pytest.approx(33.318, abs=1e-3)  # the published mean 0.1307 times 255
    assert test.labels is not None
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.slow
def test_cifar_jpegs_are_read_from_their_archive(tmp_path: Path) -> None:
    root = real_data("cifar10-jpeg")
    tree = {"kind": "image_folder", "uri": "cifar10-jpeg/cifar10-jpeg.tar.gz", "max_train": 2000}
    artifact = ingested(tree, tmp_path, root)
    assert artifact.meta["num_classes"] == 10
    train = read_split(artifact, "train")
    assert train.images.shape == (2000, 3, 32, 32)
    assert train.labels is not None
    assert np.bincount(train.labels).min() > 140


def test_a_prefix_in_s3_gives_the_same_data_set(
    s3_url: str, idx: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    bucket, prefix = s3_url.removeprefix("s3://").split("/")
    for name, content in idx_files().items():
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)
    remote = idx | {"uri": f"{s3_url}/"}
    assert source(remote).identity() == source(idx).identity()
    assert files_of(ingested(remote, tmp_path / "a")) == files_of(ingested(idx, tmp_path / "b"))


def test_another_output_needs_another_stage_version(tmp_path: Path) -> None:
    meta = ingested({"kind": "digits"}, tmp_path).meta
    digests = [shard["sha256"] for split in ("train", "test") for shard in meta["splits"][split]["shards"]]
    assert (stage.STAGE_VERSION, digests) == (1, GOLDEN_DIGITS)
