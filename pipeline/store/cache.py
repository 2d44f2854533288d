"""Files of this host: verified copies of remote objects, marks of verified local ones, scratch directories."""

import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.digest import FileEntry
from pipeline.store.eviction import evict, limit_bytes, touch
from pipeline.store.local import synchronise
from pipeline.store.local_errors import translated
from pipeline.store.names import new_ulid

SCRATCH_LOCK = ".lock"
READ_ONLY = 0o444


class Cache:
    """Objects are kept under their sha256, so stores can share one cache; it may be deleted whenever nothing runs.

    Args:
        root: directory of the cache; default PIPELINE_CACHE_DIR, else the user's cache directory, else a private
            directory under the temporary one.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._given = root
        self._root: Path | None = None
        self._seen: set[str] = set()

    def __getstate__(self) -> tuple[Path | None]:
        return (self._given,)  # never None: pickle would not call __setstate__

    def __setstate__(self, state: tuple[Path | None]) -> None:
        self.__init__(*state)

    @property
    def root(self) -> Path:
        """The directory, found at first use on each host."""
        if self._root is None:
            self._root = self._given if self._given is not None else default_root()
        return self._root

    def path_of(self, entry: FileEntry, name: str) -> Path:
        """Where a copy with this content is or will be."""
        return self.root / "objects" / entry.sha256[:2] / entry.sha256 / name.rpartition("/")[2]

    def has(self, entry: FileEntry, name: str) -> bool:
        """Whether a verified copy is here; its size is compared each time, its digest was when it arrived."""
        path = self.path_of(entry, name)
        try:
            is_here = path.stat().st_size == entry.size
        except FileNotFoundError:
            return False
        if is_here:
            touch(path)
        return is_here

    def adopt(self, source: Path, entry: FileEntry, name: str) -> Path:
        """Move a file whose digest was just computed into the cache; copies that nobody used lately may have to go."""
        target = self.path_of(entry, name)
        with translated(target, size=entry.size):
            source.chmod(READ_ONLY)
            synchronise(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
        touch(target)
        evict(self.root / "objects", limit=limit_bytes())
        return target

    def is_verified(self, path: Path, entry: FileEntry) -> bool:
        """Whether this host has hashed this very file (inode, time and size are unchanged) and found the entry."""
        mark = self._mark(path, entry)
        return mark in self._seen or self._mark_path(mark).exists()

    def set_verified(self, path: Path, entry: FileEntry) -> None:
        """Remember that the file was hashed; a cache that cannot be written remembers in this process only."""
        mark = self._mark(path, entry)
        self._seen.add(mark)
        try:
            target = self._mark_path(mark)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        except OSError:
            return

    def _mark(self, path: Path, entry: FileEntry) -> str:
        status = path.stat()
        facts = (str(path), status.st_ino, status.st_mtime_ns, status.st_size, entry.size, entry.sha256)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _mark_path(self, mark: str) -> Path:
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
        return self.root / "verified" / host / mark[:2] / mark

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """A fresh directory, removed at the end; those of processes that died are removed first."""
        directory, lock, descriptor = self._claimed_scratch()
        try:
            directory.mkdir()
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            lock.unlink(missing_ok=True)  # last: what has no lock file has no directory
            os.close(descriptor)

    def _claimed_scratch(self) -> tuple[Path, Path, int]:
        parent = self.root / "scratch"
        while True:
            directory = parent / new_ulid()
            lock = directory.with_suffix(SCRATCH_LOCK)
            with translated(lock):
                parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if lock.exists():
                self._sweep(parent)
                return directory, lock, descriptor
            os.close(descriptor)  # swept by another process between its creation and its lock

    @contextmanager
    def exclusive(self, entry: FileEntry) -> Generator[None]:
        """One process of this host at a time: the others wait for its download instead of repeating it."""
        path = self.root / "locks" / entry.sha256
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self, parent: Path) -> None:
        """Remove the directories whose process is gone: its lock is free."""
        for lock in parent.glob(f"*{SCRATCH_LOCK}"):
            try:
                descriptor = os.open(lock, os.O_RDWR)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # its process lives
            else:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def default_root() -> Path:
    """The cache directory of this user on this host, created; private when it lies in a shared place."""
    given = os.environ.get("PIPELINE_CACHE_DIR")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    root = Path(base) / "diffusion-grid-pipeline"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except OSError:
        pass
    root = Path(tempfile.gettempdir()) / f"diffusion-grid-pipeline-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.stat(follow_symlinks=False)
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="diffusion-grid-pipeline-"))
    return root
