"""CIFAR-10 in its pickle-free binary version (https://www.cs.toronto.edu/~kriz/cifar.html): 3073 bytes per image."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import DataError
from pipeline.ingest.archive import Archive, open_archive
from pipeline.ingest.sources.base import ArraySource, Samples, Source, SourceSpec, Split

SHAPE = (3, 32, 32)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_RECORD_BYTES = 1 + 3 * 32 * 32
_TRAIN = re.compile(r"^data_batch_\d+\.bin$")


class CifarBinarySpec(SourceSpec):
    """A folder, tar or tar.gz with `data_batch_1.bin` ... and `test_batch.bin`."""

    kind: Literal["cifar_binary"] = "cifar_binary"

    def opened(self) -> Source:
        archive = open_archive(self.fetched(Path.cwd()))
        base = {name.rsplit("/", 1)[-1]: name for name in archive.names}
        train = [base[name] for name in sorted(base) if _TRAIN.match(name)]
        if not train or "test_batch.bin" not in base:
            raise DataError(
                f"{archive.where}: no data_batch_1.bin and test_batch.bin; this reads the binary version of CIFAR-10 "
                f"(cifar-10-binary.tar.gz), found {', '.join(sorted(base)[:6])}"
            )
        splits: dict[Split, Samples] = {
            "train": _samples(archive, train),
            "test": _samples(archive, [base["test_batch.bin"]]),
        }
        return ArraySource(SHAPE, 256, CLASS_NAMES, splits)


def _samples(archive: Archive, names: list[str]) -> Samples:
    records = np.concatenate([_records(archive, name) for name in names])
    return Samples(records[:, 1:].reshape(-1, *SHAPE), records[:, 0].astype(np.int64))


def _records(archive: Archive, name: str) -> np.ndarray:
    payload = archive.read(name)
    where = f"{archive.where}/{name}"
    if not payload or len(payload) % _RECORD_BYTES:
        raise DataError(f"{where}: {len(payload)} bytes are not whole records of {_RECORD_BYTES}; the file is cut")
    records = np.frombuffer(payload, np.uint8).reshape(-1, _RECORD_BYTES)
    worst = int(records[:, 0].argmax())
    if records[worst, 0] >= len(CLASS_NAMES):
        raise DataError(f"{where}: record {worst} has label {records[worst, 0]}, CIFAR-10 has labels 0 to 9")
    return records
