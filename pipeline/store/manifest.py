"""The manifest: what an artifact is made from and the digest of each file. Its presence is the commit."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.store.canonical import FORMAT, canonical_json
from pipeline.store.digest import FileEntry
from pipeline.store.errors import ArtifactDamaged, StoreError
from pipeline.store.names import FINGERPRINT, Key, checked_name, checked_path

SELF = "sha256"


@dataclass(frozen=True)
class Manifest:
    """One committed attempt.

    Attributes:
        attempt: id of the directory that holds the files.
        identity: JSON value the fingerprint was computed from.
        inputs: artifacts it was made from, by role.
        files: relative path -> size and sha256.
        meta: JSON value of what readers want to know without opening a file; nothing measured by a clock.
    """

    key: Key
    attempt: str
    identity: Any
    inputs: Mapping[str, Key]
    files: Mapping[str, FileEntry]
    meta: Mapping[str, Any]

    def encode(self) -> bytes:
        """Canonical JSON that ends in its own digest, so that a changed byte is noticed in the manifest too."""
        return sealed(
            {
                "format": FORMAT,
                "stage": self.key.stage,
                "fingerprint": self.key.fingerprint,
                "attempt": self.attempt,
                "identity": self.identity,
                "inputs": {role: str(key) for role, key in self.inputs.items()},
                "files": {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in self.files.items()},
                "meta": dict(self.meta),
            }
        )

    @classmethod
    def decode(cls, body: bytes, key: Key) -> "Manifest":
        """The manifest with these bytes at this key.

        Raises:
            ArtifactDamaged: any byte differs from what was committed, or it belongs to another key.
        """
        record = opened(body, key.short)
        try:
            found = Key(record["stage"], record["fingerprint"])
            files = {
                checked_path(name): FileEntry(int(entry["size"]), str(entry["sha256"]))
                for name, entry in record["files"].items()
            }
            manifest = cls(
                key=found,
                attempt=checked_name(record["attempt"]),
                identity=record["identity"],
                inputs={role: Key.parse(text) for role, text in record["inputs"].items()},
                files=files,
                meta=record["meta"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, StoreError) as error:
            raise ArtifactDamaged(f"{key.short}: the manifest lacks or misspells {error}") from error
        if found != key:
            raise ArtifactDamaged(f"{key.short}: the manifest is that of {found.short}")
        return manifest


def sealed(record: dict[str, Any]) -> bytes:
    """Canonical JSON of the record with the digest of everything else under 'sha256'."""
    digest = hashlib.sha256(canonical_json(record, "manifest")).hexdigest()
    return canonical_json({**record, SELF: digest})


def opened(body: bytes, what: str) -> dict[str, Any]:
    """The record inside sealed bytes, without its digest.

    Raises:
        ArtifactDamaged: the bytes are not exactly what sealed() wrote.
        StoreError: they are, in a format of another version.
    """
    try:
        record = json.loads(body)
        digest = record.pop(SELF)
        is_intact = FINGERPRINT.fullmatch(digest) is not None and sealed(record) == body
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError) as error:
        raise ArtifactDamaged(f"{what}: the manifest is not readable ({type(error).__name__})") from error
    if not is_intact:
        raise ArtifactDamaged(f"{what}: the manifest does not match its own digest")
    if record.get("format") != FORMAT:
        raise StoreError(f"{what}: the manifest has format {record.get('format')}; this version reads {FORMAT}")
    return record
