"""A committed result, read through its manifest only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.store.cache import Cache
from pipeline.store.digest import FileEntry
from pipeline.store.errors import ArtifactDamaged, StoreError
from pipeline.store.fetch import fetch
from pipeline.store.layout import attempt_prefix, manifest_key
from pipeline.store.manifest import Manifest
from pipeline.store.names import Key
from pipeline.store.objects import Objects
from pipeline.store.quarantine import quarantine


class Artifact:
    """Immutable; may be pickled and sent to another host, where files are fetched on demand."""

    def __init__(self, objects: Objects, cache: Cache, *, manifest: Manifest, version: str) -> None:
        self._objects = objects
        self._cache = cache
        self._manifest = manifest
        self._version = version

    def __repr__(self) -> str:
        return f"Artifact({self.key.short}, {len(self.files)} files)"

    @property
    def key(self) -> Key:
        """Stage and fingerprint."""
        return self._manifest.key

    @property
    def identity(self) -> Any:
        """JSON value of the settings that it was made with."""
        return self._manifest.identity

    @property
    def inputs(self) -> Mapping[str, Key]:
        """Artifacts that it was made from, by role."""
        return self._manifest.inputs

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """Relative path -> size in bytes and sha256."""
        return self._manifest.files

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the stage recorded about it."""
        return self._manifest.meta

    @property
    def attempt(self) -> str:
        """Id of the attempt that won."""
        return self._manifest.attempt

    def path(self, name: str) -> Path:
        """A local, verified, read-only file; a remote one is downloaded into the cache of this host.

        Raises:
            StoreError: the artifact has no such file.
            ArtifactDamaged: the stored bytes are not those of the manifest; the artifact is in quarantine now.
        """
        if name not in self.files:
            raise StoreError(f"{self.key.short} has no file {name!r:.80}; it has {', '.join(sorted(self.files))}")
        try:
            key = attempt_prefix(self.key, self.attempt) + name
            return fetch(self._objects, self._cache, key, self.files[name])
        except ArtifactDamaged as damage:
            try:
                quarantine(self._objects, manifest_key(self.key), version=self._version, reason=damage)
            except StoreError as refusal:
                raise ArtifactDamaged(f"{damage}; it could not be put aside: {refusal}") from damage
            raise

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        return self.path(name).read_bytes()
