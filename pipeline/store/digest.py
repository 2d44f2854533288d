"""Size and sha256 of bytes, computed while they pass."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """A file as the manifest knows it: bytes and hex digest."""

    size: int
    sha256: str

    @classmethod
    def of_chunks(cls, chunks: Iterable[bytes]) -> "FileEntry":
        """Consumes the pieces."""
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
        return cls(size, digest.hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> "FileEntry":
        """Reads the whole file."""
        return cls.of_chunks(file_chunks(path))


def file_chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes in pieces of 1 MiB."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
