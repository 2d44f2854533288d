"""Images in a folder, zip, tar or tar.gz; the sub-folders are the classes."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.config import DataError, neutral
from pipeline.ingest.archive import Archive, open_archive
from pipeline.ingest.images import EXTENSIONS, ImageFormat, decode_image
from pipeline.ingest.sources.base import Samples, Source, SourceSpec, Split

_LOG = logging.getLogger(__name__)


class ImageFolderSpec(SourceSpec):
    """`[train|test/][class/].../file`; without those two folders `test_fraction` is split off by a hash of the name.

    The order is that of a hash of the name, so that `max_train` keeps all classes in about their proportions.
    """

    kind: Literal["image_folder"] = "image_folder"
    image: ImageFormat = Field(default_factory=ImageFormat)
    train_folder: str = neutral("train")
    test_folder: str = neutral("test")
    test_fraction: float = neutral(0.0, ge=0.0, lt=1.0)

    def opened(self) -> Source:
        archive = open_archive(self.fetched(Path.cwd()))
        images = [name for name in archive.names if name.lower().endswith(EXTENSIONS)]
        if not images:
            raise DataError(f"{archive.where}: holds no images ({', '.join(EXTENSIONS)})")
        if len(images) < len(archive.names):
            _LOG.info("other files left out where=%s num_files=%d", archive.where, len(archive.names) - len(images))
        prefix = _common_prefix(images)
        relative = {name: name.removeprefix(prefix) for name in images}
        splits = self._splits(relative, archive.where)
        class_of = _classes({name: rest for part in splits.values() for name, rest in part.items()}, archive.where)
        class_names = tuple(sorted(set(class_of.values()))) if class_of else None
        ordered: dict[Split, tuple[str, ...]] = {
            split: tuple(sorted(part, key=lambda name: (_hash(part[name]), part[name])))
            for split, part in splits.items()
        }
        first = decode_image(archive.read(ordered["train"][0]), self.image, f"{archive.where}/{ordered['train'][0]}")
        shape = (self.image.channels, *first.shape[1:])
        return ImageFiles(archive, self.image, shape, 256, class_names, splits=ordered, class_of=class_of)

    def _splits(self, relative: dict[str, str], where: str) -> dict[Split, dict[str, str]]:
        """For each split: full name -> name below the split's folder."""
        folders: dict[str, Split] = {self.train_folder: "train", self.test_folder: "test"}
        splits: dict[Split, dict[str, str]] = {"train": {}, "test": {}}
        tops = {rest.split("/", 1)[0] for rest in relative.values() if "/" in rest}
        if self.train_folder in tops:
            for name, rest in relative.items():
                top, _, inner = rest.partition("/")
                if top in folders and inner:
                    splits[folders[top]][name] = inner
            if not splits["test"] and self.test_fraction:
                splits = _split_by_hash(splits["train"], self.test_fraction)
        else:
            splits = _split_by_hash(relative, self.test_fraction)
        if not splits["train"]:
            raise DataError(f"{where}: no training images; check train_folder and test_fraction")
        return splits


@dataclass(frozen=True)
class ImageFiles(Source):
    """Encoded images of an archive, decoded on demand."""

    archive: Archive
    image_format: ImageFormat
    shape: tuple[int, ...]
    quantisation: int | None
    class_names: tuple[str, ...] | None
    splits: dict[Split, tuple[str, ...]]
    class_of: dict[str, str]

    def count(self, split: Split) -> int:
        return len(self.splits[split])

    def read(self, split: Split, start: int, stop: int) -> Samples:
        names = self.splits[split][start:stop]
        images = np.empty((len(names), *self.shape), np.uint8)
        for row, name in enumerate(names):
            where = f"{self.archive.where}/{name}"
            pixels = decode_image(self.archive.read(name), self.image_format, where)
            if pixels.shape != self.shape:
                raise DataError(f"{where}: shape {pixels.shape}, the first image has {self.shape}; set image.size")
            images[row] = pixels
        if self.class_names is None:
            return Samples(images, None)
        number = {name: label for label, name in enumerate(self.class_names)}
        return Samples(images, np.array([number[self.class_of[name]] for name in names], np.int64))


def _common_prefix(names: list[str]) -> str:
    """Leading folders that wrap the whole archive; one level of sub-folders is kept."""
    prefix = ""
    while True:
        rests = [name.removeprefix(prefix) for name in names]
        tops = {rest.split("/", 1)[0] for rest in rests}
        if len(tops) > 1 or any(rest.count("/") < 2 for rest in rests):
            return prefix
        prefix += tops.pop() + "/"


def _classes(relative: dict[str, str], where: str) -> dict[str, str]:
    """Class of every image: its first folder; empty if no image lies in a folder."""
    loose = [name for name, rest in relative.items() if "/" not in rest]
    if len(loose) == len(relative):
        return {}
    if loose:
        raise DataError(f"{where}: {loose[0]!a} lies in no class folder, other images do; move it into one")
    return {name: rest.split("/", 1)[0] for name, rest in relative.items()}


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _split_by_hash(relative: dict[str, str], test_fraction: float) -> dict[Split, dict[str, str]]:
    """Test are the names whose hash, read as a number in [0, 1), lies below `test_fraction`."""
    splits: dict[Split, dict[str, str]] = {"train": {}, "test": {}}
    for name, rest in relative.items():
        # other bytes than those that order the split, so that the first training images are not special
        place = int.from_bytes(_hash(rest)[8:16], "big") / 2**64
        splits["test" if place < test_fraction else "train"][name] = rest
    return splits
