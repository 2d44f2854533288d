"""Existing webdataset tars with one image (png, jpg, webp or npy) and one class number (cls) per sample."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from pydantic import Field

from pipeline.config import DataError, neutral
from pipeline.ingest.images import EXTENSIONS, ImageFormat, decode_image
from pipeline.ingest.sources.base import SPLITS, Samples, Source, SourceSpec, Split
from pipeline.shards.npy import decode_npy
from pipeline.shards.remote import folder_files
from pipeline.shards.tar import TarMember, regular_members

_IMAGES = (*(extension.removeprefix(".") for extension in EXTENSIONS), "npy")
_IGNORED = ("json", "txt")
_MAX_LABEL_BYTES = 32


class WebdatasetSpec(SourceSpec):
    """A folder of tars (told apart by the globs) or one tar (all of it is the training split)."""

    kind: Literal["webdataset"] = "webdataset"
    image: ImageFormat = Field(default_factory=ImageFormat)
    train: str = neutral("*train*.tar")
    test: str = neutral("*test*.tar")
    is_labelled: bool = neutral(True)
    class_names: tuple[str, ...] | None = None

    def opened(self) -> Source:
        path = self.fetched(Path.cwd())
        if path.is_file():
            files: dict[Split, list[Path]] = {"train": [path], "test": []}
        else:
            names = folder_files(path)
            files = {
                "train": [path / name for name in names if fnmatch(name, self.train)],
                "test": [path / name for name in names if fnmatch(name, self.test)],
            }
        if not files["train"]:
            raise DataError(f"{path}: no file matches `train: {self.train}`")
        samples: dict[Split, list[TarSample]] = {
            split: [sample for file in files[split] for sample in _samples(file, is_labelled=self.is_labelled)]
            for split in SPLITS
        }
        if not samples["train"]:
            raise DataError(f"{path}: the training tars hold no samples")
        largest = max(sample.label for split in SPLITS for sample in samples[split])
        class_names = self.class_names or tuple(str(label) for label in range(largest + 1))
        if self.is_labelled and largest >= len(class_names):
            raise DataError(f"{path}: the largest label is {largest}, class_names has {len(class_names)} entries")
        shape = samples["train"][0].decoded(self.image).shape
        return TarImages(self.image, shape, 256, class_names if self.is_labelled else None, samples)


@dataclass(frozen=True)
class TarSample:
    """Where one image lies, and its label (-1: none)."""

    file: Path
    member: TarMember
    label: int

    def decoded(self, image_format: ImageFormat) -> np.ndarray:
        """uint8 `(C, H, W)`; npy members hold uint8 `(H, W)` or `(H, W, C)`."""
        where = f"{self.file}: {self.member.name}"
        with self.file.open("rb") as file:
            payload = _payload(file, self.member)
        if not self.member.name.endswith(".npy"):
            return decode_image(payload, image_format, where)
        array = decode_npy(payload, where)
        if array.ndim == 2:
            array = array[:, :, None]
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != image_format.channels:
            raise DataError(f"{where}: {array.dtype} {array.shape}, expected uint8 (H, W, {image_format.channels})")
        return np.ascontiguousarray(array.transpose(2, 0, 1))


@dataclass(frozen=True)
class TarImages(Source):
    """Encoded images in tars, decoded on demand."""

    image_format: ImageFormat
    shape: tuple[int, ...]
    quantisation: int | None
    class_names: tuple[str, ...] | None
    samples: dict[Split, list[TarSample]]

    def count(self, split: Split) -> int:
        return len(self.samples[split])

    def read(self, split: Split, start: int, stop: int) -> Samples:
        chosen = self.samples[split][start:stop]
        images = np.empty((len(chosen), *self.shape), np.uint8)
        for row, sample in enumerate(chosen):
            pixels = sample.decoded(self.image_format)
            if pixels.shape != self.shape:
                where = f"{sample.file}: {sample.member.name}"
                raise DataError(f"{where}: shape {pixels.shape}, the first image has {self.shape}; set image.size")
            images[row] = pixels
        labels = None if self.class_names is None else np.array([sample.label for sample in chosen], np.int64)
        return Samples(images, labels)


def _samples(path: Path, *, is_labelled: bool) -> list[TarSample]:
    """Samples of one tar; members of a sample are adjacent and share the name up to the first dot."""
    grouped: dict[str, dict[str, TarMember]] = {}
    samples: list[TarSample] = []
    with path.open("rb") as file:
        total_bytes = path.stat().st_size
        last = ""
        for member in list(regular_members(file, str(path), total_bytes=total_bytes)):
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            extension, key = extension.lower(), f"{folder}/{stem}"
            if extension not in (*_IMAGES, *_IGNORED, "cls"):
                raise DataError(f"{path}: member {member.name!a} has an extension that is not accepted")
            if key in grouped and key != last:
                raise DataError(f"{path}: the members of sample {stem!a} are not adjacent")
            if extension in grouped.setdefault(key, {}):
                raise DataError(f"{path}: sample {stem!a} has two members .{extension}")
            grouped[key][extension] = member
            last = key
        for key, members in grouped.items():
            images = [member for extension, member in members.items() if extension in _IMAGES]
            if len(images) != 1:
                raise DataError(f"{path}: sample {key.lstrip('/')!a} has {len(images)} images, expected one")
            if is_labelled and "cls" not in members:
                raise DataError(f"{path}: sample {key.lstrip('/')!a} has no .cls; set `is_labelled: false`")
            label = _label(_payload(file, members["cls"]), path, key) if is_labelled else -1
            samples.append(TarSample(path, images[0], label))
    return samples


def _label(payload: bytes, path: Path, key: str) -> int:
    text = payload[:_MAX_LABEL_BYTES].strip()
    if not text.isdigit() or len(payload) > _MAX_LABEL_BYTES:
        raise DataError(f"{path}: sample {key.lstrip('/')!a} has class {text!r}, not a number")
    return int(text)


def _payload(file: BinaryIO, member: TarMember) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
