"""One try at making an artifact: a fresh directory that becomes visible as a whole or not at all."""

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.store.artifact import Artifact
from pipeline.store.canonical import plain
from pipeline.store.errors import ResourceError, StoreError, StoreUnavailable
from pipeline.store.layout import attempt_prefix, manifest_key
from pipeline.store.local_errors import is_full, resource_error
from pipeline.store.manifest import Manifest
from pipeline.store.names import Key, checked_path, new_ulid

if TYPE_CHECKING:
    from pipeline.store.store import Store

log = logging.getLogger(__name__)
NUM_COMMITS = 4


class Attempt:
    """Context manager; leaving it without a commit removes what was written.

    A full disk inside the block is reported as ResourceError with path and bytes, whoever was writing.
    """

    def __init__(self, store: "Store", key: Key, *, identity: Any, inputs: Mapping[str, Key]) -> None:
        self.key = key
        self.id = new_ulid()
        self._store = store
        self._identity = plain(identity, "identity")
        self._inputs = dict(inputs)
        self._prefix = attempt_prefix(key, self.id)
        self._declared: set[str] = set()
        self._directory: Path | None = None
        self._artifact: Artifact | None = None
        self._is_winner = False
        self._is_outcome_known = True
        self._scratch = ExitStack()

    def __enter__(self) -> "Attempt":
        directory = self._store.objects.backend.workplace(self._prefix)
        self._directory = self._scratch.enter_context(self._store.cache.scratch()) if directory is None else directory
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        path = self._directory
        try:
            if not self._is_outcome_known:  # the manifest may be there, so the files have to stay
                log.warning("event=commit_unknown key=%s attempt=%s", self.key.short, self.id)
            elif not self._is_winner:
                self._discard()
        finally:
            self._scratch.close()
            self._directory = None
        if isinstance(error, OSError) and is_full(error):
            raise resource_error(error, error.filename or path or self._prefix) from error

    @property
    def directory(self) -> Path:
        """Every regular file below becomes part of the artifact."""
        if self._directory is None:
            raise RuntimeError("an attempt is used as a context manager: with store.attempt(...) as attempt")
        return self._directory

    def path(self, name: str) -> Path:
        """Where to write the file with this name ([a-z0-9._-] parts joined by '/'); it has to exist at commit."""
        if self._artifact is not None:
            raise RuntimeError(f"{self.key.short} is committed; nothing can be added")
        self._declared.add(checked_path(name))
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, meta: Mapping[str, Any] | None = None) -> Artifact:
        """Make the files visible, all at once; if another attempt was first, its artifact is returned instead.

        Args:
            meta: JSON value for readers; nothing measured by a clock.
        """
        if self._artifact is not None:
            raise RuntimeError(f"{self.key.short} is committed already")
        recorded = plain({} if meta is None else meta, "meta")
        objects = self._store.objects
        paths = self._written()
        for path in paths.values():
            os.utime(path)  # young from here on, so that collection leaves the attempt alone
        files = {name: objects.upload(self._prefix + name, path) for name, path in paths.items()}
        manifest = Manifest(
            key=self.key,
            attempt=self.id,
            identity=self._identity,
            inputs=self._inputs,
            files=files,
            meta=recorded,
        )
        body = manifest.encode()
        for _ in range(NUM_COMMITS):
            version = self._create(body)
            if version is not None:
                self._is_winner = True
                self._artifact = Artifact(objects, self._store.cache, manifest=manifest, version=version)
                for name, path in paths.items():
                    if objects.backend.local_path(self._prefix + name) == path:
                        self._store.cache.set_verified(path, files[name])
                log.info("event=commit key=%s attempt=%s files=%d", self.key.short, self.id, len(files))
                return self._artifact
            self._artifact = self._store.find(self.key)  # None: theirs was damaged and is in quarantine now
            if self._artifact is not None:
                log.warning(
                    "event=commit_lost key=%s attempt=%s winner=%s", self.key.short, self.id, self._artifact.attempt
                )
                return self._artifact
        raise StoreUnavailable(f"{self.key.short}: the manifest keeps coming and going")

    def _create(self, body: bytes) -> str | None:
        """Put the manifest if absent, noting whether the outcome is known should this fail."""
        objects, name = self._store.objects, manifest_key(self.key)
        self._is_outcome_known = False
        try:
            version = objects.create(name, body)
        except (ResourceError, StoreError):  # an answer, so nothing is under way any more
            found = objects.get(name)
            self._is_outcome_known = found is None or found.body != body
            raise
        self._is_outcome_known = True
        return version

    def _written(self) -> dict[str, Path]:
        """All files of the directory by name."""
        found: dict[str, Path] = {}
        for path in sorted(self.directory.rglob("*")):
            name = path.relative_to(self.directory).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StoreError(f"{self.key.short}: {name!r:.80} is a link or device; artifacts hold plain files")
            if path.is_file():
                found[checked_path(name)] = path
        if missing := self._declared - found.keys():
            raise StoreError(f"{self.key.short}: announced but not written: {', '.join(sorted(missing))}")
        return found

    def _discard(self) -> None:
        try:
            self._store.objects.discard(self._prefix)
        except (StoreError, StoreUnavailable) as error:
            log.warning("event=attempt_left key=%s attempt=%s error=%s", self.key.short, self.id, error)
