"""Events on their way to the tracking server: written first, sent later, deleted when the server has them."""

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pipeline.tracking.records import Record, from_json, to_json

logger = logging.getLogger(__name__)
PREFIX = "outbox/"


class Documents(Protocol):
    """Small named blobs below one prefix; the store's documents have this shape."""

    def put(self, name: str, body: bytes) -> None: ...

    def get(self, name: str) -> bytes | None: ...

    def list(self, prefix: str = "") -> Iterable[str]: ...

    def delete(self, name: str) -> None: ...


class FolderDocuments:
    """Documents in a local folder; `put` returns when file and directory are on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, body: bytes) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def get(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        names = (path.relative_to(self.folder).as_posix() for path in files)
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class Outbox:
    """Append-only batches of records; a batch is one document of JSON lines, so it is there whole or not at all."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents

    def append(self, records: Iterable[Record]) -> str:
        """Name of the new batch, once it is durable; names sort by time."""
        name = f"{PREFIX}{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl"
        lines = [json.dumps(to_json(record), sort_keys=True, allow_nan=False) for record in records]
        self.documents.put(name, ("\n".join(lines) + "\n").encode())
        return name

    def batches(self) -> dict[str, list[Record]]:
        """Batches that were not confirmed yet, oldest first; a line that cannot be read is dropped with a warning."""
        found: dict[str, list[Record]] = {}
        for name in sorted(self.documents.list(PREFIX)):
            data = self.documents.get(name)
            if data is None:
                continue  # another driver has confirmed it since the listing
            found[name] = []
            for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
                try:
                    found[name].append(from_json(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError):
                    logger.warning("outbox=%s line=%d unreadable; `sync` rebuilds it from the store", name, number)
        return found

    def confirm(self, name: str) -> None:
        self.documents.delete(name)
