"""What the protocol needs from a place that keeps objects; local disk and S3 are the two implementations."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stat:
    """What the store reports about an object.

    Attributes:
        size: bytes.
        modified_s: seconds since the epoch, by the store's clock.
        sha256: hex digest of the whole object if the store computed one itself, else None.
    """

    key: str
    size: int
    modified_s: float
    sha256: str | None = None


@dataclass(frozen=True)
class Object:
    """A small object with the version that conditional writes refer to."""

    body: bytes
    version: str
    modified_s: float


class BackendError(Exception):
    """Base of the answers below; none of them leaves the store package."""


class Missing(BackendError):
    """There is no such object."""


class Exists(BackendError):
    """put_if_absent found an object."""


class Changed(BackendError):
    """The object is not the version that the condition named."""


class Transient(BackendError):
    """No answer, or one that says to come back; the operation may or may not have happened."""


class Conflict(Transient):
    """Concurrent conditional requests (HTTP 409); the operation did not happen."""


class Backend(ABC):
    """A flat map from keys ('a/b/c') to bytes. One call is one try: retries are made above, in one place.

    Besides BackendError, methods raise StoreError (a person has to act) and ResourceError (no space).
    """

    url: str

    @abstractmethod
    def put_if_absent(self, key: str, body: bytes) -> str:
        """Create the object atomically and durably; its version. Raises Exists."""

    @abstractmethod
    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        """Replace exactly this version; the new one. Raises Changed or Missing."""

    @abstractmethod
    def put(self, key: str, body: bytes) -> None:
        """Create or replace; readers see the old or the new bytes, never a mixture."""

    @abstractmethod
    def put_file(self, key: str, source: Path, *, sha256: str) -> None:
        """Store a file of any size under a key that nobody else writes. A source already in place is made durable."""

    @abstractmethod
    def get(self, key: str) -> Object:
        """A small object. Raises Missing."""

    @abstractmethod
    def read(self, key: str) -> Iterator[bytes]:
        """The bytes of an object of any size in pieces. Raises Missing; a short answer raises Transient."""

    @abstractmethod
    def head(self, key: str) -> Stat:
        """Size, time and digest as reported. Raises Missing."""

    @abstractmethod
    def scan(self, prefix: str) -> Iterator[Stat]:
        """All objects whose key starts with the prefix, in any order."""

    @abstractmethod
    def delete(self, key: str, *, version: str | None = None) -> None:
        """Remove, only this version if one is given (raises Changed); nothing to remove is fine."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since the epoch by the store's clock, resolution 1 s or better."""

    @abstractmethod
    def debris(self) -> Iterator[Stat]:
        """What dead writers left outside the map: temporary files, empty directories, open multipart uploads."""

    @abstractmethod
    def delete_debris(self, item: Stat) -> None:
        """Remove one of them; already gone is fine."""

    def discard(self, prefix: str) -> None:
        """Remove everything below a prefix that ends in '/'."""
        for stat in self.scan(prefix):
            self.delete(stat.key)

    def workplace(self, prefix: str) -> Path | None:
        """A directory of this host, created, in which files can be written under their final keys; None if remote."""
        return None

    def local_path(self, key: str) -> Path | None:
        """Where the object is, or would be, as a file of this host; None if it is no file here."""
        return None
