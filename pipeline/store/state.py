"""Resumable state: checkpoints on the side of an artifact that is not finished yet."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.store.cache import Cache
from pipeline.store.canonical import FORMAT, plain
from pipeline.store.digest import FileEntry
from pipeline.store.errors import ArtifactDamaged, StoreError, StoreUnavailable
from pipeline.store.fetch import fetch
from pipeline.store.layout import MANIFEST, state_prefix
from pipeline.store.manifest import opened, sealed
from pipeline.store.names import Key, checked_path, new_ulid
from pipeline.store.objects import Objects
from pipeline.store.quarantine import quarantine

log = logging.getLogger(__name__)
NUM_KEPT = 2


@dataclass(frozen=True)
class State:
    """A complete, verified state.

    Attributes:
        step: the step it was saved at.
        meta: JSON value given to save().
        files: verified local files by name.
        skipped: one sentence per newer state that was damaged and put aside.
    """

    step: int
    meta: Mapping[str, Any]
    files: Mapping[str, Path]
    skipped: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """A local, verified, read-only file."""
        if name not in self.files:
            raise StoreError(f"the state of step {self.step} has no file {name!r:.80}")
        return self.files[name]

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        return self.path(name).read_bytes()


class StateStore:
    """States of one key. The two newest complete ones are kept."""

    def __init__(self, objects: Objects, cache: Cache, key: Key) -> None:
        self._objects = objects
        self._cache = cache
        self._key = key
        self._prefix = state_prefix(key)

    def save(self, step: int, files: Mapping[str, Path | bytes], meta: Mapping[str, Any] | None = None) -> None:
        """Store a state; it counts from the moment its manifest is there. Sources are copied.

        Args:
            step: >= 0; the state with the largest step is the one resumed.
            files: content by name, as bytes or as a file.
            meta: JSON value.
        """
        if step < 0:
            raise StoreError(f"{self._key.short}: a state needs a step >= 0, not {step}")
        prefix = f"{self._prefix}{step:012d}-{new_ulid()}/"
        recorded = plain({} if meta is None else meta, "meta")
        is_committing = False
        try:
            entries = {checked_path(name): self._store(f"{prefix}files/{name}", files[name]) for name in sorted(files)}
            record = {
                "format": FORMAT,
                "key": str(self._key),
                "step": step,
                "files": {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in entries.items()},
                "meta": recorded,
            }
            body = sealed(record)
            is_committing = True
            self._objects.create(prefix + MANIFEST, body)
        except BaseException:
            if not is_committing:  # else the manifest may be there, and the files have to stay
                self._discard(prefix)
            raise
        log.info("event=state_saved key=%s step=%d", self._key.short, step)
        older = [manifest for manifest in self._manifests() if self._step(manifest) <= step]
        for manifest in older[:-NUM_KEPT]:
            self._objects.delete(manifest)
            self._discard(manifest.removesuffix(MANIFEST))

    def latest(self) -> State | None:
        """The newest complete state whose every byte is right; damaged ones are put aside, loudly."""
        skipped: list[str] = []
        for manifest in reversed(self._manifests()):
            found = self._objects.get(manifest)
            if found is None:
                continue
            try:
                state = self._opened(manifest, found.body, skipped=tuple(skipped))
            except ArtifactDamaged as damage:
                skipped.append(f"state of step {self._step(manifest)} is damaged: {damage}")
                quarantine(self._objects, manifest, version=found.version, reason=damage)
                continue
            if skipped:
                log.error("event=state_fallback key=%s step=%d skipped=%d", self._key.short, state.step, len(skipped))
            return state
        return None

    def clear(self) -> None:
        """Remove all states of the key, manifests first."""
        for manifest in self._manifests():
            self._objects.delete(manifest)
        self._objects.discard(self._prefix)

    def _opened(self, manifest: str, body: bytes, *, skipped: tuple[str, ...]) -> State:
        what = f"state {manifest}"
        record = opened(body, what)
        if record.get("key") != str(self._key):
            raise ArtifactDamaged(f"{what} belongs to {record.get('key')}")
        prefix = manifest.removesuffix(MANIFEST)
        files = {
            checked_path(name): fetch(
                self._objects, self._cache, f"{prefix}files/{name}", FileEntry(entry["size"], entry["sha256"])
            )
            for name, entry in record["files"].items()
        }
        return State(int(record["step"]), record["meta"], files, skipped)

    def _store(self, key: str, source: Path | bytes) -> FileEntry:
        if isinstance(source, Path):
            return self._objects.upload(key, source)
        with self._cache.scratch() as directory:
            path = directory / "bytes"
            path.write_bytes(source)
            return self._objects.upload(key, path)

    def _manifests(self) -> list[str]:
        """Keys of the manifests, by rising step."""
        return [stat.key for stat in self._objects.scan(self._prefix) if stat.key.endswith(f"/{MANIFEST}")]

    def _step(self, manifest: str) -> int:
        return int(manifest[len(self._prefix) :].partition("-")[0])

    def _discard(self, prefix: str) -> None:
        try:
            self._objects.discard(prefix)
        except (StoreError, StoreUnavailable) as error:
            log.warning("event=state_left prefix=%s error=%s", prefix, error)
