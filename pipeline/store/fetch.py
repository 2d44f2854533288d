"""The only way stored files reach a reader: size compared always, sha256 once per host."""

import logging
from pathlib import Path

from pipeline.store.cache import Cache
from pipeline.store.digest import FileEntry
from pipeline.store.errors import ArtifactDamaged
from pipeline.store.names import new_ulid
from pipeline.store.objects import Objects

log = logging.getLogger(__name__)
NUM_DOWNLOADS = 2


def fetch(objects: Objects, cache: Cache, key: str, entry: FileEntry) -> Path:
    """A local, verified, read-only file with the content that the manifest promises.

    Raises:
        ArtifactDamaged: the store has other bytes or none.
    """
    path = objects.backend.local_path(key)
    return _remote(objects, cache, key, entry) if path is None else _local(cache, path, entry)


def _local(cache: Cache, path: Path, entry: FileEntry) -> Path:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ArtifactDamaged(f"{path} is missing, {entry.size} bytes were promised") from None
    if size != entry.size:
        raise ArtifactDamaged(f"{path} has {size} bytes, {entry.size} were promised")
    if not cache.is_verified(path, entry):
        found = FileEntry.of_file(path)
        if found != entry:
            raise ArtifactDamaged(f"{path} has sha256 {found.sha256}, {entry.sha256} was promised")
        cache.set_verified(path, entry)
    return path


def _remote(objects: Objects, cache: Cache, key: str, entry: FileEntry) -> Path:
    if cache.has(entry, key):
        return cache.path_of(entry, key)
    found: FileEntry | None = None
    with cache.exclusive(entry):
        if cache.has(entry, key):
            return cache.path_of(entry, key)
        with cache.scratch() as directory:
            for _ in range(NUM_DOWNLOADS):  # a second look tells damage in the store from damage on the way
                target = directory / new_ulid()
                found = objects.download(key, target, size=entry.size)
                if found is None:
                    raise ArtifactDamaged(f"{objects.url}/{key} is missing, {entry.size} bytes were promised")
                if found == entry:
                    return cache.adopt(target, entry, key)
                log.error("event=store_corrupt_get key=%s promised=%s found=%s", key, entry, found)
    raise ArtifactDamaged(f"{objects.url}/{key} is {found}, {entry} was promised")
