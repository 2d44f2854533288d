"""Data set artifacts in a plain folder, and a few small sources, for tests that need no store."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from pipeline.config import DataError, parse, union
from pipeline.ingest import stage
from pipeline.ingest.sources import SOURCES, SourceSpec, pin
from pipeline.shards import ShardWriter

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class FolderArtifact:
    """Files below a folder with a meta; serves as attempt and as artifact."""

    folder: Path
    meta: Mapping[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.folder / name


def answer_or_message(action: Callable[[], Answer]) -> Answer | str:
    """What `action` returns, or the sentence of its `DataError`."""
    try:
        return action()
    except DataError as error:
        return str(error)


def quiet(done: int, total: int) -> None:
    """A progress callback that says nothing."""


def written(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    quantisation: int | None = 256,
    samples_per_block: int = 8,
    samples_per_shard: int = 32,
) -> FolderArtifact:
    """`images` as the training split of an artifact."""
    with ShardWriter(
        lambda name: folder / name, "train", samples_per_shard=samples_per_shard, samples_per_block=samples_per_block
    ) as writer:
        writer.write(images, labels)
    meta = {
        "name": "case",
        "shape": list(images.shape[1:]),
        "num_classes": None if labels is None else 10,
        "class_names": None,
        "quantisation": quantisation,
        "samples_per_block": samples_per_block,
        "splits": {
            "train": {"count": len(images), "shards": [entry.to_json() for entry in writer.entries]},
            "test": {"count": 0, "shards": []},
        },
    }
    return FolderArtifact(folder, meta)


def random_images(count: int, *, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0, levels: int = 256) -> np.ndarray:
    """Independent uniform levels, uint8."""
    return np.random.default_rng(seed).integers(0, levels, (count, *shape), dtype=np.uint8)


def source(tree: dict[str, Any], root: Path | str = ".") -> SourceSpec:
    """A validated, pinned source."""
    return pin(parse(union(SOURCES), {"name": "case"} | tree), root)


def ingested(tree: dict[str, Any], folder: Path, root: Path | str = ".", **options: Any) -> FolderArtifact:
    """The data set artifact of a source, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = stage.run(source(tree, root), {}, FolderArtifact(folder), quiet, **options)
    return FolderArtifact(folder, meta)


def png(pixels: np.ndarray, *, format: str = "PNG") -> bytes:
    """`(C, H, W)` uint8 as an encoded image."""
    plain = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plain)).save(buffer, format)
    return buffer.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    """A tar as other tools write it: folders are absent, times are present."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    content = tar_bytes(files)
    path.write_bytes(gzip.compress(content) if path.name.endswith("gz") else content)
    return path


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def idx_files(*, num_train: int = 40, num_test: int = 10, side: int = 5, seed: int = 0) -> dict[str, bytes]:
    """The four files of a small IDX data set, images gzipped, labels plain."""
    rng = np.random.default_rng(seed)
    files: dict[str, bytes] = {}
    for prefix, count in (("train", num_train), ("t10k", num_test)):
        images = rng.integers(0, 256, (count, side, side))
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx_bytes(images), mtime=0)
        files[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(rng.integers(0, 3, count))
    return files
