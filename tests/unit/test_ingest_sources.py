"""Each kind of source gives the samples that its files hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from pipeline.config import ConfigError, DataError, parse, union
from pipeline.ingest.sources import SOURCES
from pipeline.ingest.sources.base import Samples
from pipeline.shards.npy import encode_npy
from tests.shard_cases import (
    idx_files,
    ingested,
    png,
    random_images,
    source,
    tar_bytes,
    write_folder,
    write_tar,
    write_zip,
)

RGB = random_images(24, shape=(3, 6, 6))
CLASSES = ("cat", "dog", "emu")


def everything(tree: dict[str, Any], split: str = "train") -> Samples:
    opened = source(tree).opened()
    return opened.read(split, 0, opened.count(split))


def rows(images: np.ndarray) -> list[bytes]:
    """Images as a sorted list, to compare sets."""
    return sorted(image.tobytes() for image in images)


def folder_files(prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{CLASSES[i % 3]}/{i:03d}.png": png(image) for i, image in enumerate(RGB)}


def test_digits_keep_their_17_levels_and_order() -> None:
    images, labels = load_digits(return_X_y=True)
    train, test = (everything({"kind": "digits"}, split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.concatenate([train.images, test.images]).reshape(-1, 64), images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)
    assert len(test.images) == 360
    assert train.images.max() == 16


def test_idx_reads_plain_and_gzipped_files(tmp_path: Path) -> None:
    write_folder(tmp_path, idx_files())
    opened = source({"kind": "idx", "uri": str(tmp_path)}).opened()
    assert opened.shape == (1, 5, 5)
    assert (opened.count("train"), opened.count("test")) == (40, 10)
    expected = np.random.default_rng(0).integers(0, 256, (40, 5, 5))
    np.testing.assert_array_equal(opened.read("train", 3, 9).images[:, 0], expected[3:9])


@pytest.mark.parametrize("container", ["folder", "x.tar.gz"])
def test_cifar_binary_reads_planes_and_labels(tmp_path: Path, container: str) -> None:
    images, labels = random_images(9, shape=(3, 32, 32)), np.arange(9, dtype=np.uint8)
    records = [bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
    files = {
        "c/data_batch_1.bin": b"".join(records[:4]),
        "c/data_batch_2.bin": b"".join(records[4:6]),
        "c/test_batch.bin": b"".join(records[6:]),
    }
    path = tmp_path / container
    uri = write_folder(path, files) if container == "folder" else write_tar(path, files)
    train, test = (everything({"kind": "cifar_binary", "uri": str(uri)}, split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.concatenate([train.images, test.images]), images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)


CONTAINERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "x.zip": write_zip,
    "x.tar": write_tar,
    "x.tar.gz": write_tar,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_image_folders_give_the_same_samples_from_any_container(tmp_path: Path, container: str) -> None:
    uri = CONTAINERS[container](tmp_path / container, folder_files("wrapped/"))
    samples = everything({"kind": "image_folder", "uri": str(uri)})
    place = {image.tobytes(): i for i, image in enumerate(RGB)}
    order = [place[image.tobytes()] for image in samples.images]
    assert sorted(order) == list(range(24))
    np.testing.assert_array_equal(samples.labels, [i % 3 for i in order])
    reference = everything({"kind": "image_folder", "uri": str(write_folder(tmp_path / "reference", folder_files()))})
    np.testing.assert_array_equal(samples.images, reference.images)


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    files = {
        f"{'test' if i % 4 == 0 else 'train'}/{name}": body for i, (name, body) in enumerate(folder_files().items())
    }
    tree = {"kind": "image_folder", "uri": str(write_folder(tmp_path, files))}
    assert rows(everything(tree, "test").images) == rows(RGB[::4])
    assert len(everything(tree).images) == 18


def test_a_test_fraction_is_split_off_by_name_alone(tmp_path: Path) -> None:
    files = folder_files()
    tree = {"kind": "image_folder", "uri": str(write_folder(tmp_path / "a", files)), "test_fraction": 0.4}
    train, test = everything(tree), everything(tree, "test")
    assert rows(np.concatenate([train.images, test.images])) == rows(RGB)
    assert 3 <= len(test.images) <= 17
    fewer = {name: files[name] for name in list(files)[::2]}
    tree["uri"] = str(write_folder(tmp_path / "b", fewer))
    assert set(rows(everything(tree, "test").images)) == set(rows(test.images)) & set(rows(RGB[::2]))


def test_images_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    files = {f"{i}.png": png(image) for i, image in enumerate(RGB)}
    opened = source({"kind": "image_folder", "uri": str(write_folder(tmp_path, files))}).opened()
    assert opened.class_names is None
    assert opened.read("train", 0, 3).labels is None


def test_images_are_resized_by_the_short_side_and_cropped_in_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((3, 8, 24), np.uint8)
    wide[:, :, 8:16] = 200
    uri = str(write_folder(tmp_path, {"a.png": png(wide)}))
    image = everything({"kind": "image_folder", "uri": uri, "image": {"size": 4, "resample": "box"}}).images[0]
    np.testing.assert_array_equal(image, np.full((3, 4, 4), 200))


def test_grey_images_have_one_channel_and_other_modes_need_permission(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"kind": "image_folder", "uri": str(write_folder(tmp_path, folder_files()))}
    with pytest.raises(DataError, match=r"colour mode RGB, expected L; set `convert: true`"):
        everything(tree | {"image": {"mode": "grey"}})
    assert everything(tree | {"image": {"mode": "grey", "convert": True}}).images.shape == (24, 1, 6, 6)


@pytest.mark.parametrize("is_struct", [True, False])
def test_parquet_reads_hub_layouts_across_row_groups(tmp_path: Path, is_struct: bool) -> None:
    payloads = [png(image) for image in RGB]
    images = [{"bytes": body, "path": None} for body in payloads] if is_struct else payloads
    table = pa.table({"image": images, "label": [i % 3 for i in range(24)]})
    features = b'{"info": {"features": {"label": {"names": ["cat", "dog", "emu"]}}}}'
    table = table.replace_schema_metadata({b"huggingface": features})
    (tmp_path / "data").mkdir()
    pq.write_table(table.slice(0, 10), tmp_path / "data/train-00000-of-00002.parquet", row_group_size=4)
    pq.write_table(table.slice(10, 9), tmp_path / "data/train-00001-of-00002.parquet", row_group_size=5)
    pq.write_table(table.slice(19), tmp_path / "data/test-00000-of-00001.parquet")
    opened = source({"kind": "parquet", "uri": str(tmp_path)}).opened()
    assert opened.class_names == CLASSES
    part = opened.read("train", 3, 16)
    np.testing.assert_array_equal(part.images, RGB[3:16])
    np.testing.assert_array_equal(part.labels, np.arange(3, 16) % 3)
    np.testing.assert_array_equal(opened.read("test", 0, 5).images, RGB[19:])


def test_parquet_names_the_columns_that_exist(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [png(RGB[0])], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'image'; found img, label"):
        everything({"kind": "parquet", "uri": str(tmp_path / "a.parquet")})


@pytest.mark.parametrize("extension", ["png", "npy"])
def test_webdataset_tars_give_images_and_classes(tmp_path: Path, extension: str) -> None:
    files: dict[str, bytes] = {}
    for i, image in enumerate(RGB):
        body = png(image) if extension == "png" else encode_npy(image.transpose(1, 2, 0))
        files |= {f"{i:04d}.cls": str(i % 3).encode(), f"{i:04d}.{extension}": body}
    names = list(files)
    write_tar(tmp_path / "x-train-0.tar", {name: files[name] for name in names[:20]})
    write_tar(tmp_path / "x-train-1.tar", {name: files[name] for name in names[20:40]})
    write_tar(tmp_path / "x-test-0.tar", {name: files[name] for name in names[40:]})
    opened = source({"kind": "webdataset", "uri": str(tmp_path), "class_names": list(CLASSES)}).opened()
    part = opened.read("train", 8, 14)
    np.testing.assert_array_equal(part.images, RGB[8:14])
    np.testing.assert_array_equal(part.labels, np.arange(8, 14) % 3)
    assert opened.count("test") == 4


def test_webdataset_members_of_a_sample_must_be_adjacent(tmp_path: Path) -> None:
    body = png(RGB[0])
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.png": body, "2.png": body, "1.cls": b"0", "2.cls": b"0"}))
    with pytest.raises(DataError, match="not adjacent"):
        everything({"kind": "webdataset", "uri": str(tmp_path / "a.tar")})


def test_mixture_points_follow_the_specification() -> None:
    tree = {"weights": [1.0, 3.0], "means": [[-1.0, 0.0], [2.0, 1.0]], "variances": [[0.04, 0.01], [0.01, 0.09]]}
    samples = everything({"kind": "gaussian_mixture", "num_train": 40000, "seed": 5} | tree)
    assert samples.labels is not None
    assert samples.labels.mean() == pytest.approx(0.75, abs=0.01)
    for component in (0, 1):
        points = samples.images[samples.labels == component]
        np.testing.assert_allclose(points.mean(axis=0), tree["means"][component], atol=0.01)
        np.testing.assert_allclose(points.var(axis=0), tree["variances"][component], rtol=0.05)


def test_mixture_splits_and_seeds_are_independent() -> None:
    tree = {"kind": "gaussian_mixture", "weights": [1.0], "means": [[0.0]], "variances": [[1.0]], "num_test": 8192}
    draws = [everything(tree | {"seed": seed}, split).images[:, 0] for seed in (0, 1) for split in ("train", "test")]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.05
    np.testing.assert_array_equal(everything(tree).images, everything(tree).images)


def test_a_mixture_of_the_wrong_sizes_says_so() -> None:
    tree = {"kind": "gaussian_mixture", "weights": [1.0, 1.0], "means": [[0.0]], "variances": [[1.0]]}
    with pytest.raises(ConfigError, match="2 weights need 2 rows"):
        parse(union(SOURCES), tree | {"name": "x"})


def test_gaussian_points_have_the_declared_moments() -> None:
    tree = {"kind": "gaussian", "variances": [4.0, 0.01], "mean": [1.0, -2.0], "num_train": 40000, "seed": 3}
    samples = everything(tree)
    assert samples.labels is None
    assert samples.images.dtype == np.float32
    np.testing.assert_allclose(samples.images.mean(axis=0), [1.0, -2.0], atol=0.04)
    np.testing.assert_allclose(samples.images.var(axis=0), [4.0, 0.01], rtol=0.03)
    declared = source(tree).opened().declared_moments
    assert declared is not None
    assert (declared.mean, declared.variances) == ((1.0, -2.0), (4.0, 0.01))


def test_gaussian_splits_and_seeds_are_independent() -> None:
    tree = {"kind": "gaussian", "variances": [1.0], "num_test": 8192}
    draws = [everything(tree | {"seed": seed}, split).images[:, 0] for seed in (0, 1) for split in ("train", "test")]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.05
    np.testing.assert_array_equal(everything(tree).images, everything(tree).images)


def test_only_a_gaussian_declares_its_moments(tmp_path: Path) -> None:
    gaussian = ingested({"kind": "gaussian", "variances": [1.0, 2.0], "mean": 0.5}, tmp_path / "a").meta
    assert gaussian["moments"] == {"mean": [0.5, 0.5], "variances": [1.0, 2.0]}
    tree = {"kind": "gaussian_mixture", "weights": [1.0], "means": [[0.0]], "variances": [[1.0]]}
    assert "moments" not in ingested(tree, tmp_path / "b").meta


def test_a_mixture_declares_the_law_of_its_points(tmp_path: Path) -> None:
    law = {"weights": [1.0, 2.0], "means": [[0.0], [3.0]], "variances": [[1.0], [0.5]]}
    assert ingested({"kind": "gaussian_mixture", **law}, tmp_path).meta["mixture"] == law


def test_a_gaussian_of_the_wrong_sizes_says_so() -> None:
    with pytest.raises(ConfigError, match="mean has 3 numbers, variances has 2"):
        parse(union(SOURCES), {"kind": "gaussian", "variances": [1.0, 1.0], "mean": [0.0, 0.0, 0.0], "name": "x"})
