"""Backend calls with retries and settled outcomes: the only door from the protocol to the storage."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.store.backend import Backend, Changed, Conflict, Exists, Missing, Object, Stat, Transient
from pipeline.store.digest import FileEntry
from pipeline.store.errors import StoreUnavailable
from pipeline.store.local_errors import translated
from pipeline.store.retry import Retry

log = logging.getLogger(__name__)
NUM_UPLOADS = 3


class Objects:
    """A backend whose answers are final: every method has retried, and a lost reply has been resolved."""

    def __init__(self, backend: Backend, retry: Retry) -> None:
        self.backend = backend
        self.retry = retry

    @property
    def url(self) -> str:
        return self.backend.url

    def with_retry(self, *, first_s: float, budget_s: float) -> "Objects":
        """The same objects with another patience."""
        return Objects(self.backend, replace(self.retry, first_s=first_s, budget_s=budget_s))

    def get(self, key: str) -> Object | None:
        """A small object, or None."""
        try:
            return self.retry(f"get {self.url}/{key}", lambda: self.backend.get(key))
        except Missing:
            return None

    def head(self, key: str) -> Stat | None:
        """What the store reports about an object, or None."""
        try:
            return self.retry(f"head {self.url}/{key}", lambda: self.backend.head(key))
        except Missing:
            return None

    def scan(self, prefix: str) -> list[Stat]:
        """All objects below, by key."""
        found = self.retry(f"list {self.url}/{prefix}", lambda: list(self.backend.scan(prefix)))
        return sorted(found, key=lambda stat: stat.key)

    def put(self, key: str, body: bytes) -> None:
        """Create or replace."""
        self.retry(f"put {self.url}/{key}", lambda: self.backend.put(key, body))

    def create(self, key: str, body: bytes) -> str | None:
        """Put if absent; the version, or None if another object was there first.

        After a lost reply the object itself says who won, so competing bodies have to differ (attempt id, nonce).
        """
        return self._settled(key, body, lambda: self.backend.put_if_absent(key, body))

    def replace(self, key: str, body: bytes, *, version: str) -> str | None:
        """Replace exactly this version; the new one, or None if it was no longer there. Bodies have to be fresh."""
        return self._settled(key, body, lambda: self.backend.put_if_match(key, body, version=version))

    def _settled(self, key: str, body: bytes, operation: Callable[[], str]) -> str | None:
        is_reply_lost = False

        def attempt() -> str | None:
            nonlocal is_reply_lost
            try:
                return operation()
            except Conflict:
                raise
            except Transient:
                is_reply_lost = True
                raise
            except (Exists, Changed, Missing) as refusal:
                if not is_reply_lost:
                    return None
                try:
                    found = self.backend.get(key)
                except Missing:
                    if isinstance(refusal, Exists):
                        raise Conflict(f"{key} came and went") from refusal
                    return None
                return found.version if found.body == body else None

        return self.retry(f"conditional put {self.url}/{key}", attempt)

    def delete(self, key: str, *, version: str | None = None) -> bool:
        """Remove; False if another version than the given one is there."""
        try:
            self.retry(f"delete {self.url}/{key}", lambda: self.backend.delete(key, version=version))
        except Changed:
            return False
        return True

    def discard(self, prefix: str) -> None:
        """Remove everything below a prefix that ends in '/'."""
        self.retry(f"delete {self.url}/{prefix}", lambda: self.backend.discard(prefix))

    def now(self) -> float:
        """The store's clock, seconds since the epoch."""
        return self.retry(f"clock of {self.url}", self.backend.now)

    def debris(self) -> list[Stat]:
        """What dead writers left outside the map."""
        return self.retry(f"list {self.url}", lambda: list(self.backend.debris()))

    def delete_debris(self, item: Stat) -> None:
        """Remove one of them."""
        self.retry(f"delete {self.url}/{item.key}", lambda: self.backend.delete_debris(item))

    def digest(self, key: str) -> FileEntry | None:
        """Size and sha256 of what is stored, by reading all of it; None if there is nothing."""
        try:
            return self.retry(f"read {self.url}/{key}", lambda: FileEntry.of_chunks(self.backend.read(key)))
        except Missing:
            return None

    def download(self, key: str, target: Path, *, size: int) -> FileEntry | None:
        """Write the object (of so many bytes, for the error text) to a file, hashing; None if there is nothing."""

        def attempt() -> FileEntry:
            chunks = self.backend.read(key)
            with target.open("wb") as file:
                with translated(target, size=size):
                    entry = FileEntry.of_chunks(chunk for chunk in chunks if file.write(chunk))
                return entry

        try:
            return self.retry(f"read {self.url}/{key}", attempt)
        except Missing:
            return None

    def upload(self, key: str, source: Path) -> FileEntry:
        """Store a file and compare what the store then has with what was meant.

        Raises:
            StoreUnavailable: the store keeps reporting other bytes.
        """
        entry = FileEntry.of_file(source)
        is_in_place = self.backend.local_path(key) == source
        reported: FileEntry | None = None
        for _ in range(NUM_UPLOADS):
            self.retry(f"put {self.url}/{key}", lambda: self.backend.put_file(key, source, sha256=entry.sha256))
            stat = self.head(key)
            if stat is None:
                continue
            reported = FileEntry(stat.size, stat.sha256 or "")
            if stat.size == entry.size and stat.sha256 is None:
                reported = entry if is_in_place else self.digest(key)
            if reported == entry:
                return entry
            log.error("event=store_corrupt_put key=%s meant=%s found=%s", key, entry, reported)
        raise StoreUnavailable(f"{self.url}/{key}: wrote {entry}, but the store has {reported}")
