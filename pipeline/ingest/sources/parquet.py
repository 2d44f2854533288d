"""Parquet files with a column of encoded images, as public data set hubs keep them."""

import bisect
import json
import zlib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.config import DataError, neutral
from pipeline.ingest.images import ImageFormat, decode_image
from pipeline.ingest.sources.base import SPLITS, Samples, Source, SourceSpec, Split
from pipeline.shards.remote import folder_files


class ParquetSpec(SourceSpec):
    """A folder of files (told apart by the globs) or one file (all of it is the training split)."""

    kind: Literal["parquet"] = "parquet"
    image: ImageFormat = Field(default_factory=ImageFormat)
    image_column: str = "image"  # bytes, or struct with a field `bytes`
    label_column: str | None = "label"  # integers; None: no labels
    train: str = neutral("*train*.parquet")
    test: str = neutral("*test*.parquet")
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
        groups: dict[Split, list[RowGroup]] = {
            split: [group for file in files[split] for group in self._row_groups(file)] for split in SPLITS
        }
        class_names = self.class_names or self._class_names(groups)
        source = ParquetImages(self, groups, class_names, ())
        first = source.decoded("train", 0, 1)[0]
        return ParquetImages(self, groups, class_names, first.shape)

    def _row_groups(self, file: Path) -> "list[RowGroup]":
        try:
            metadata = pq.read_metadata(file)
            columns = metadata.schema.to_arrow_schema().names
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from None
        for column in (self.image_column, self.label_column):
            if column is not None and column not in columns:
                raise DataError(f"{file}: no column {column!r}; found {', '.join(columns)}")
        return [RowGroup(file, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]

    def _class_names(self, groups: "dict[Split, list[RowGroup]]") -> tuple[str, ...] | None:
        """The names that hubs keep in the schema's metadata, else the digits of the largest label."""
        if self.label_column is None:
            return None
        described = pq.read_schema(groups["train"][0].file).metadata or {}
        try:
            features = json.loads(described.get(b"huggingface", b"{}"))["info"]["features"]
            names = features[self.label_column]["names"]
        except (KeyError, TypeError, ValueError):
            names = None
        if isinstance(names, list) and all(isinstance(name, str) and name.isprintable() for name in names):
            return tuple(names)
        largest = max(int(_labels(group, self.label_column).max()) for split in SPLITS for group in groups[split])
        return tuple(str(label) for label in range(largest + 1))


@dataclass(frozen=True)
class RowGroup:
    """Part of a file that is read at once."""

    file: Path
    number: int
    rows: int


class ParquetImages(Source):
    """Row groups of encoded images, decoded on demand."""

    quantisation = 256

    def __init__(
        self,
        spec: ParquetSpec,
        groups: dict[Split, list[RowGroup]],
        class_names: tuple[str, ...] | None,
        shape: tuple[int, ...],
    ) -> None:
        self.class_names, self.shape = class_names, shape
        self._spec, self._groups = spec, groups
        self._firsts = {split: [0, *np.cumsum([g.rows for g in groups[split]]).tolist()] for split in SPLITS}

    def count(self, split: Split) -> int:
        return self._firsts[split][-1]

    def read(self, split: Split, start: int, stop: int) -> Samples:
        images = self.decoded(split, start, stop)
        for row, image in enumerate(images):
            if image.shape != self.shape:
                raise DataError(
                    f"{self._spec.uri}: {split} image {start + row} has shape {image.shape}, the first {self.shape}; "
                    "set image.size"
                )
        if self.class_names is None or self._spec.label_column is None:
            return Samples(np.stack(images), None)
        column = self._spec.label_column
        labels = np.concatenate([_labels(g, column)[a:b] for g, a, b in self._ranges(split, start, stop)])
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise DataError(f"{self._spec.uri}: label {labels.max()} but only {len(self.class_names)} class names")
        return Samples(np.stack(images), labels)

    def decoded(self, split: Split, start: int, stop: int) -> list[np.ndarray]:
        """Images of the rows [start, stop), uint8 `(C, H, W)` each."""
        if stop > self.count(split):
            raise DataError(f"{self._spec.uri}: split {split} has {self.count(split)} rows")
        images: list[np.ndarray] = []
        for group, first, last in self._ranges(split, start, stop):
            column = _column(group, self._spec.image_column).slice(first, last - first)
            for row, value in enumerate(column):
                where = f"{group.file} row group {group.number} row {first + row}"
                images.append(decode_image(_payload(value.as_py(), where), self._spec.image, where))
        return images

    def _ranges(self, split: Split, start: int, stop: int) -> list[tuple[RowGroup, int, int]]:
        firsts = self._firsts[split]
        ranges: list[tuple[RowGroup, int, int]] = []
        for number in range(bisect.bisect_right(firsts, start) - 1, len(self._groups[split])):
            if firsts[number] >= stop:
                break
            begin, end = max(start, firsts[number]), min(stop, firsts[number + 1])
            if end > begin:
                ranges.append((self._groups[split][number], begin - firsts[number], end - firsts[number]))
        return ranges


def _column(group: RowGroup, name: str) -> Any:
    try:
        with pq.ParquetFile(group.file) as file:
            return file.read_row_group(group.number, columns=[name], use_threads=False).column(name)
    except (pa.ArrowException, OSError, zlib.error) as error:
        raise DataError(f"{group.file}: row group {group.number} is damaged ({str(error).splitlines()[0]})") from None


def _labels(group: RowGroup, name: str) -> np.ndarray:
    column = _column(group, name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{group.file}: column {name!r} is {column.type} with {column.null_count} nulls, not integers")
    return column.to_numpy().astype(np.int64)


def _payload(value: object, where: str) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise DataError(f"{where}: the image column holds {type(value).__name__}, not bytes")
    return value
