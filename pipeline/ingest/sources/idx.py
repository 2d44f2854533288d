"""IDX files as MNIST, Fashion-MNIST and EMNIST publish them (http://yann.lecun.com/exdb/mnist), plain or gzip."""

import math
import struct
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import DataError
from pipeline.ingest.archive import Archive, gunzipped, open_archive
from pipeline.ingest.sources.base import SPLITS, ArraySource, Samples, Source, SourceSpec, Split

_PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8
_MAX_BYTES = 4 * 2**30


class IdxSpec(SourceSpec):
    """A folder, prefix or archive with `train-images-idx3-ubyte[.gz]`, `t10k-labels-idx1-ubyte[.gz]` and so on."""

    kind: Literal["idx"] = "idx"
    class_names: tuple[str, ...] | None = None  # None: the digits of the largest label

    def opened(self) -> Source:
        path = self.fetched(Path.cwd())
        archive = open_archive(path)
        splits: dict[Split, Samples] = {split: _split(archive, split) for split in SPLITS}
        shapes = {samples.images.shape[1:] for samples in splits.values()}
        if len(shapes) != 1:
            raise DataError(f"{path}: train and test images have different shapes: {sorted(shapes)}")
        num_classes = 1 + max(int(samples.labels.max()) for samples in splits.values() if samples.labels is not None)
        names = self.class_names or tuple(str(label) for label in range(num_classes))
        if num_classes > len(names):
            raise DataError(f"{path}: the largest label is {num_classes - 1}, class_names has {len(names)} entries")
        return ArraySource(shapes.pop(), 256, names, splits)


def read_idx(payload: bytes, where: str) -> np.ndarray:
    """The uint8 array of one IDX file.

    Raises:
        DataError: wrong magic, another element type, or fewer or more bytes than the header declares.
    """
    payload = gunzipped(payload, where, max_bytes=_MAX_BYTES)
    if len(payload) < 4 or payload[:2] != b"\0\0":
        raise DataError(
            f"{where}: starts with {payload[:4].hex() or 'nothing'}, not with the magic 0000 of an idx file"
        )
    if payload[2] != _UNSIGNED_BYTE or not 1 <= payload[3] <= 4:
        raise DataError(
            f"{where}: idx of type 0x{payload[2]:02x} with {payload[3]} axes; only unsigned bytes are accepted"
        )
    num_axes = payload[3]
    start = 4 + 4 * num_axes
    if len(payload) < start:
        raise DataError(f"{where}: the file ends inside its header; it is cut")
    shape = struct.unpack(f">{num_axes}I", payload[4:start])
    if len(payload) - start != math.prod(shape):
        raise DataError(
            f"{where}: the header declares {shape}, that is {math.prod(shape)} bytes, found {len(payload) - start}; "
            "the file is cut or altered, fetch it again"
        )
    return np.frombuffer(payload, np.uint8, offset=start).reshape(shape)


def _split(archive: Archive, split: Split) -> Samples:
    images = _read(archive, split, "images", num_axes=3)
    labels = _read(archive, split, "labels", num_axes=1)
    if len(images) != len(labels):
        raise DataError(f"{archive.where}: {split} has {len(images)} images but {len(labels)} labels")
    if len(images) == 0:
        raise DataError(f"{archive.where}: {split} has no images")
    return Samples(images[:, None], labels.astype(np.int64))


def _read(archive: Archive, split: Split, part: str, *, num_axes: int) -> np.ndarray:
    stem = f"{_PREFIXES[split]}-{part}"
    accepted = [f"{stem}{dot}idx{num_axes}-ubyte{suffix}" for dot in "-." for suffix in ("", ".gz")]
    for name in archive.names:
        if name.rsplit("/", 1)[-1] in accepted:
            where = f"{archive.where}/{name}"
            array = read_idx(archive.read(name), where)
            if array.ndim != num_axes:
                raise DataError(f"{where}: {array.ndim} axes, expected {num_axes}")
            return array
    raise DataError(f"{archive.where}: no file {accepted[0]} (or {accepted[1]}); found {', '.join(archive.names[:6])}")
