"""Shards written and read back; every contradiction to the index is an error."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from pipeline.config import DataError
from pipeline.shards import ShardWriter, encode_shard, read_split
from tests.shard_cases import FolderArtifact, random_images, written

LABELS = np.arange(75) % 10


def changed(artifact: FolderArtifact, **fields: Any) -> FolderArtifact:
    """The artifact with fields of its first shard's index line replaced."""
    shards = artifact.meta["splits"]["train"]["shards"]
    count = (
        artifact.meta["splits"]["train"]["count"] + fields.get("samples", shards[0]["samples"]) - shards[0]["samples"]
    )
    train = {"count": count, "shards": [shards[0] | fields, *shards[1:]]}
    return replace(artifact, meta=dict(artifact.meta) | {"splits": {"train": train}})


@pytest.mark.parametrize("count", [1, 8, 9, 32, 33, 75])
def test_images_and_labels_survive(tmp_path: Path, count: int) -> None:
    images = random_images(count)
    samples = read_split(written(tmp_path, images, LABELS[:count]), "train")
    np.testing.assert_array_equal(samples.images, images)
    np.testing.assert_array_equal(samples.labels, LABELS[:count])
    np.testing.assert_array_equal(samples.index, np.arange(count))


def test_points_without_labels_survive(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    samples = read_split(written(tmp_path, points, quantisation=None), "train")
    np.testing.assert_array_equal(samples.images, points)
    assert samples.labels is None


def test_equal_samples_give_equal_bytes() -> None:
    first, second = (
        encode_shard(random_images(20), LABELS[:20], split="train", number=0, first_index=0) for _ in range(2)
    )
    assert first == second


def test_batches_of_any_size_give_the_same_shards(tmp_path: Path) -> None:
    images = random_images(75)
    whole = written(tmp_path, images, LABELS)
    (tmp_path / "other").mkdir()
    with ShardWriter(lambda n: tmp_path / "other" / n, "train", samples_per_shard=32, samples_per_block=8) as writer:
        for start in range(0, 75, 7):
            writer.write(images[start : start + 7], LABELS[start : start + 7])
    assert [entry.to_json() for entry in writer.entries] == whole.meta["splits"]["train"]["shards"]


def test_stock_webdataset_reads_the_blocks(tmp_path: Path) -> None:
    images = random_images(75)
    artifact = written(tmp_path, images, LABELS)
    urls = [str(artifact.path(entry["name"])) for entry in artifact.meta["splits"]["train"]["shards"]]
    blocks = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    np.testing.assert_array_equal(np.concatenate([block["x.npy"] for block in blocks]), images)
    np.testing.assert_array_equal(np.concatenate([block["y.npy"] for block in blocks]), LABELS)
    np.testing.assert_array_equal(np.concatenate([block["index.npy"] for block in blocks]), np.arange(75))


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    images = random_images(75)
    artifact = written(tmp_path, images, LABELS)
    artifact.path("train-000002.tar").unlink()
    np.testing.assert_array_equal(read_split(artifact, "train", max_samples=40).images, images[:40])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"bytes": 7}, "the index says 7"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"samples": 24}, "unexpected member|more than"),
        ({"samples": 31}, "the index says"),
        ({"samples": 40}, "missing"),
    ],
)
def test_a_shard_that_contradicts_its_index_is_refused(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    artifact = changed(written(tmp_path, random_images(75), LABELS), **fields)
    with pytest.raises(DataError, match=sentence):
        read_split(artifact, "train")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path, random_images(75), LABELS)
    artifact.path("train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar.*cannot be read"):
        read_split(artifact, "train")


def test_an_unknown_split_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test, train"):
        read_split(written(tmp_path, random_images(5)), "valid")


def test_two_shards_cannot_be_exchanged(tmp_path: Path) -> None:
    artifact = written(tmp_path, random_images(64), LABELS[:64])
    shards = artifact.meta["splits"]["train"]["shards"]
    meta = dict(artifact.meta) | {"splits": {"train": {"count": 64, "shards": shards[::-1]}}}
    with pytest.raises(DataError, match="missing"):
        read_split(replace(artifact, meta=meta), "train")
