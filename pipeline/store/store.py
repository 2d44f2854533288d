"""The store: artifacts by what they were made from, on a directory or an S3 prefix, with one protocol."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.store.artifact import Artifact
from pipeline.store.attempt import Attempt
from pipeline.store.backend import Backend
from pipeline.store.cache import Cache
from pipeline.store.documents import Documents
from pipeline.store.errors import ArtifactDamaged, StoreError
from pipeline.store.layout import ARTIFACTS, key_of, lease_key, manifest_key
from pipeline.store.lease import Lease, held, holder
from pipeline.store.local import LocalBackend
from pipeline.store.manifest import Manifest
from pipeline.store.names import Key, checked_name, checked_path
from pipeline.store.objects import Objects
from pipeline.store.quarantine import quarantine
from pipeline.store.retry import Retry
from pipeline.store.s3 import S3Backend
from pipeline.store.state import StateStore


class Store:
    """The only truth of a grid. May be pickled; connections are made again where it arrives.

    Args:
        backend: where the objects are.
        cache: files of this host; default Cache().
        retry: patience with transient failures; default 10 minutes per operation.
    """

    def __init__(self, backend: Backend, *, cache: Cache | None = None, retry: Retry | None = None) -> None:
        self.objects = Objects(backend, Retry() if retry is None else retry)
        self.cache = Cache() if cache is None else cache

    def __repr__(self) -> str:
        return f"Store({self.url})"

    @property
    def url(self) -> str:
        """The directory or s3://bucket/prefix."""
        return self.objects.url

    def find(self, key: Key) -> Artifact | None:
        """The artifact if it is finished. A damaged manifest is put aside, loudly, and counts as absent.

        Raises:
            ArtifactDamaged: the manifest is damaged and cannot be put aside.
        """
        found = self.objects.get(manifest_key(key))
        if found is None:
            return None
        try:
            manifest = Manifest.decode(found.body, key)
        except ArtifactDamaged as damage:
            try:
                quarantine(self.objects, manifest_key(key), version=found.version, reason=damage)
            except StoreError as refusal:
                raise ArtifactDamaged(f"{damage}; it could not be put aside: {refusal}") from damage
            return None
        return Artifact(self.objects, self.cache, manifest=manifest, version=found.version)

    def attempt(self, key: Key, *, identity: Any, inputs: Mapping[str, Key]) -> Attempt:
        """Context manager for making the artifact with this key.

        Args:
            key: its address, from fingerprint() of the same identity and inputs.
            identity: JSON value; stored in the manifest.
            inputs: artifacts it is made from, by role; they stay reachable as long as this one is.
        """
        return Attempt(self, key, identity=identity, inputs=inputs)

    def state(self, stage: str, fingerprint: str) -> StateStore:
        """Resumable states of the artifact with this key."""
        return StateStore(self.objects, self.cache, Key(stage, fingerprint))

    def lease(self, key: Key | str, *, owner: str, ttl_s: float = 120.0) -> AbstractContextManager[Lease]:
        """Context manager: holds the lease, renewed by a thread, or raises LeaseHeld(owner, age_s).

        Args:
            key: an artifact's key, or a name such as grids/<name>.
            owner: what others are told, e.g. host and process.
            ttl_s: others may take over after this long without renewal, by the store's clock.
        """
        name = key if isinstance(key, Key) else checked_path(key)
        return held(Lease(self.objects, lease_key(name), owner=owner, ttl_s=ttl_s))

    def lease_owner(self, key: Key | str) -> str | None:
        """Who holds this lease now; None if nobody does. One who died without giving it back holds it for its ttl."""
        name = key if isinstance(key, Key) else checked_path(key)
        found = self.objects.get(lease_key(name))
        if found is None:
            return None
        owner, _, is_held = holder(self.objects, found)
        return owner if is_held else None

    def documents(self, prefix: str) -> Documents:
        """Small mutable documents below grids/<name>."""
        return Documents(self.objects, prefix)

    def keys(self, stage: str | None = None) -> Iterator[Key]:
        """Keys of the finished artifacts, of one stage or all, sorted; one listing, cheaper than many find()."""
        prefix = f"{ARTIFACTS}/" if stage is None else f"{ARTIFACTS}/{checked_name(stage)}/"
        for stat in self.objects.scan(prefix):
            key = key_of(stat.key)
            if key is not None and stat.key == manifest_key(key):
                yield key


def open_store(url: str | os.PathLike[str], *, cache: Path | None = None, retry: Retry | None = None) -> Store:
    """A store at a directory or 's3://bucket/prefix'; nothing is touched yet.

    Args:
        url: where; a relative directory is taken from the current one, now.
        cache: directory for this host's copies; default PIPELINE_CACHE_DIR or the user's cache directory.
        retry: patience with transient failures.
    """
    text = os.fspath(url)
    parts = urlsplit(text)
    if parts.scheme == "s3":
        backend: Backend = S3Backend(parts.netloc, parts.path.strip("/"))
    elif "://" in text:
        raise StoreError(f"{text!r:.80}: a store is a directory or s3://bucket/prefix")
    else:
        backend = LocalBackend(Path(text).expanduser().absolute())
    return Store(backend, cache=Cache(cache), retry=retry)
