"""A directory as a store; works on any file system with hard links, also over NFS."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.backend import Backend, Changed, Exists, Missing, Object, Stat
from pipeline.store.digest import file_chunks
from pipeline.store.errors import StoreError
from pipeline.store.local_errors import translated
from pipeline.store.names import new_ulid

TEMPORARY = "tmp"
LOCK = "lock"
READ_ONLY = 0o444
NUM_MKDIR_TRIES = 16


def synchronise(path: Path) -> None:
    """fsync of a file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalBackend(Backend):
    """Objects are files below root; temporary files live in root/tmp, on the same file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def local_path(self, key: str) -> Path:
        parts = key.split("/")
        assert all(part not in ("", ".", "..") for part in parts), key
        return self.root.joinpath(*parts)

    def put_if_absent(self, key: str, body: bytes) -> str:
        target = self.local_path(key)
        with translated(target, size=len(body)), self._temporary(body) as source:
            try:
                self._place(source, target, overwrite=False)
            except FileExistsError as error:
                if not os.path.samefile(source, target):  # over NFS a resent link() may find its own work
                    raise Exists(key) from error
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                    raise StoreError(
                        f"{self.root} is on a file system without hard links, which commits need; choose another store"
                    ) from error
                raise
        return hashlib.sha256(body).hexdigest()

    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        target = self.local_path(key)
        with translated(target, size=len(body)), self._lock():
            if self.get(key).version != version:
                raise Changed(key)
            with self._temporary(body) as source:
                self._place(source, target, overwrite=True)
        return hashlib.sha256(body).hexdigest()

    def put(self, key: str, body: bytes) -> None:
        target = self.local_path(key)
        with translated(target, size=len(body)), self._temporary(body) as source:
            self._place(source, target, overwrite=True)

    def put_file(self, key: str, source: Path, *, sha256: str) -> None:
        target = self.local_path(key)
        with translated(target, size=source.stat().st_size):
            if source != target:
                temporary = self._new_temporary()
                try:
                    shutil.copyfile(source, temporary)
                    synchronise(temporary)
                    self._place(temporary, target, overwrite=True)
                finally:
                    temporary.unlink(missing_ok=True)
            target.chmod(READ_ONLY)
            synchronise(target)
            for directory in target.relative_to(self.root).parents:
                synchronise(self.root / directory)

    def get(self, key: str) -> Object:
        path = self.local_path(key)
        with translated(path), path.open("rb") as file:
            body = file.read()
            return Object(body, hashlib.sha256(body).hexdigest(), os.fstat(file.fileno()).st_mtime)

    def read(self, key: str) -> Iterator[bytes]:
        path = self.local_path(key)
        with translated(path):
            yield from file_chunks(path)

    def head(self, key: str) -> Stat:
        path = self.local_path(key)
        with translated(path):
            status = path.stat(follow_symlinks=False)
        return Stat(key, status.st_size, status.st_mtime)

    def scan(self, prefix: str) -> Iterator[Stat]:
        base = prefix.rpartition("/")[0]
        with translated(self.root):
            for path in self._walk(self.root / base):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not key.startswith(f"{TEMPORARY}/"):
                    try:
                        yield self.head(key)
                    except Missing:
                        continue

    def delete(self, key: str, *, version: str | None = None) -> None:
        path = self.local_path(key)
        try:
            with translated(path):
                if version is None:
                    path.unlink()
                else:
                    with self._lock():
                        if self.get(key).version != version:
                            raise Changed(key)
                        path.unlink()
        except Missing:
            return
        self._remove_empty_parents(path)

    def discard(self, prefix: str) -> None:
        directory = self.local_path(prefix.rstrip("/"))
        with translated(directory):
            if directory.is_dir():
                shutil.rmtree(directory)
        self._remove_empty_parents(directory)

    def workplace(self, prefix: str) -> Path:
        directory = self.local_path(prefix.rstrip("/"))
        with translated(directory):
            self.make_directory(directory)
        return directory

    def now(self) -> float:
        with translated(self.root), self._temporary(b"") as path:
            return path.stat().st_mtime  # the file server's clock, not this host's

    def debris(self) -> Iterator[Stat]:
        with translated(self.root):
            for path in self._walk(self.root / TEMPORARY):
                if path.name != LOCK:
                    status = path.stat()
                    yield Stat(f"{TEMPORARY}/{path.name}", status.st_size, status.st_mtime)
            for directory, subdirectories, files in os.walk(self.root):
                path = Path(directory)
                if not subdirectories and not files and path not in (self.root, self.root / TEMPORARY):
                    yield Stat(f"{path.relative_to(self.root).as_posix()}/", 0, path.stat().st_mtime)

    def delete_debris(self, item: Stat) -> None:
        path = self.local_path(item.key.rstrip("/"))
        with translated(path):
            if item.key.endswith("/"):
                if self._remove_empty(path):
                    self._remove_empty_parents(path)
            else:
                path.unlink(missing_ok=True)

    def _walk(self, directory: Path) -> Iterator[Path]:
        """Regular files below; directories that vanish meanwhile are skipped."""
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)

    def _place(self, source: Path, target: Path, *, overwrite: bool) -> None:
        """Give the file its final name in one atomic, durable step."""
        for remaining in reversed(range(NUM_MKDIR_TRIES)):
            self.make_directory(target.parent)
            try:
                if overwrite:
                    source.replace(target)
                else:
                    os.link(source, target)
                synchronise(target.parent)
                return
            except FileNotFoundError:  # somebody removed the directory because it was still empty
                if not remaining:
                    raise

    def make_directory(self, directory: Path) -> None:
        """Create it and its parents durably, also while others remove empty directories."""
        for remaining in reversed(range(NUM_MKDIR_TRIES)):
            missing = [directory, *directory.parents]
            missing = missing[: next(index for index, path in enumerate(missing) if path.is_dir())]
            try:
                for path in reversed(missing):
                    path.mkdir(exist_ok=True)
                    synchronise(path.parent)
                return
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", error.filename) from error
            except FileNotFoundError:
                if not remaining:
                    raise

    def _new_temporary(self) -> Path:
        self.make_directory(self.root / TEMPORARY)
        return self.root / TEMPORARY / new_ulid()

    @contextmanager
    def _temporary(self, body: bytes) -> Generator[Path]:
        """A durable file with these bytes, removed at the end unless it was moved away."""
        path = self._new_temporary()
        try:
            with path.open("xb") as file:
                file.write(body)
                file.flush()
                if body:
                    os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Generator[None]:
        """Makes compare and replace one step among the processes that use this store; dies with its process."""
        self.make_directory(self.root / TEMPORARY)
        descriptor = os.open(self.root / TEMPORARY / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _remove_empty_parents(self, path: Path) -> None:
        for parent in path.parents:
            if parent == self.root or not self._remove_empty(parent):
                return

    def _remove_empty(self, directory: Path) -> bool:
        try:
            directory.rmdir()
        except OSError:
            return False
        return True
