"""Stand-ins for the world around a store: a clock that only counts, a store in memory, scripted faults, crashes."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.store.backend import Backend, Changed, Conflict, Exists, Missing, Object, Stat, Transient
from pipeline.store.errors import ResourceError


@dataclass
class FakeClock:
    """Monotonic seconds that pass only while somebody sleeps."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


class MemoryBackend(Backend):
    """A perfect remote store; its clock is set by the test."""

    def __init__(self) -> None:
        self.url = "memory"
        self.seconds = 1_000_000.0
        self.objects: dict[str, Object] = {}
        self._lock = threading.RLock()
        self._num_versions = 0

    def _write(self, key: str, body: bytes) -> str:
        self._num_versions += 1
        self.objects[key] = Object(body, str(self._num_versions), self.seconds)
        return str(self._num_versions)

    def put_if_absent(self, key: str, body: bytes) -> str:
        with self._lock:
            if key in self.objects:
                raise Exists(key)
            return self._write(key, body)

    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        with self._lock:
            if self.get(key).version != version:
                raise Changed(key)
            return self._write(key, body)

    def put(self, key: str, body: bytes) -> None:
        with self._lock:
            self._write(key, body)

    def put_file(self, key: str, source: Path, *, sha256: str) -> None:
        self.put(key, source.read_bytes())

    def get(self, key: str) -> Object:
        if key not in self.objects:
            raise Missing(key)
        return self.objects[key]

    def read(self, key: str) -> Iterator[bytes]:
        yield self.get(key).body

    def head(self, key: str) -> Stat:
        found = self.get(key)
        return Stat(key, len(found.body), found.modified_s)

    def scan(self, prefix: str) -> Iterator[Stat]:
        for key in list(self.objects):
            if key.startswith(prefix):
                yield self.head(key)

    def delete(self, key: str, *, version: str | None = None) -> None:
        with self._lock:
            if key in self.objects:
                if version is not None and self.objects[key].version != version:
                    raise Changed(key)
                del self.objects[key]

    def now(self) -> float:
        return self.seconds

    def debris(self) -> Iterator[Stat]:
        return iter(())

    def delete_debris(self, item: Stat) -> None:
        return None


class Crash(BaseException):
    """The process died here."""


class Wrapped(Backend):
    """Passes everything on; `around` sees each call and decides what happens.

    Args:
        inner: the store.
        around: called with (operation, key or prefix, what to do).
        offset_s: how far the store's clock is moved forward.
    """

    def __init__(
        self, inner: Backend, around: Callable[[str, str, Callable[[], Any]], Any], *, offset_s: float = 0.0
    ) -> None:
        self.inner = inner
        self.url = inner.url
        self.around = around
        self.offset_s = offset_s
        self.calls: Counter[str] = Counter()

    def _call(self, operation: str, key: str, do: Callable[[], Any]) -> Any:
        self.calls[operation] += 1
        return self.around(operation, key, do)

    def put_if_absent(self, key: str, body: bytes) -> str:
        return self._call("put_if_absent", key, lambda: self.inner.put_if_absent(key, body))

    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        return self._call("put_if_match", key, lambda: self.inner.put_if_match(key, body, version=version))

    def put(self, key: str, body: bytes) -> None:
        self._call("put", key, lambda: self.inner.put(key, body))

    def put_file(self, key: str, source: Path, *, sha256: str) -> None:
        self._call("put_file", key, lambda: self.inner.put_file(key, source, sha256=sha256))

    def get(self, key: str) -> Object:
        return self._call("get", key, lambda: self.inner.get(key))

    def read(self, key: str) -> Iterator[bytes]:
        return self._call("read", key, lambda: self.inner.read(key))

    def head(self, key: str) -> Stat:
        return self._call("head", key, lambda: self.inner.head(key))

    def scan(self, prefix: str) -> Iterator[Stat]:
        return iter(self._call("scan", prefix, lambda: list(self.inner.scan(prefix))))

    def delete(self, key: str, *, version: str | None = None) -> None:
        self._call("delete", key, lambda: self.inner.delete(key, version=version))

    def now(self) -> float:
        return self._call("now", "", self.inner.now) + self.offset_s

    def debris(self) -> Iterator[Stat]:
        return iter(self._call("debris", "", lambda: list(self.inner.debris())))

    def delete_debris(self, item: Stat) -> None:
        self._call("delete_debris", item.key, lambda: self.inner.delete_debris(item))

    def discard(self, prefix: str) -> None:
        self._call("discard", prefix, lambda: self.inner.discard(prefix))

    def workplace(self, prefix: str) -> Path | None:
        return self._call("workplace", prefix, lambda: self.inner.workplace(prefix))

    def local_path(self, key: str) -> Path | None:
        return self.inner.local_path(key)


class Faulty(Wrapped):
    """Scripted faults: {(operation, n): fault} hits the n-th call of that operation.

    Faults: 'unavailable' (503: nothing happened), 'conflict' (409), 'lost' (happened, but the reply timed out),
    'full' (no space), 'truncate' and 'flip' (put_file stores other bytes).
    """

    def __init__(self, inner: Backend, script: dict[tuple[str, int], str]) -> None:
        super().__init__(inner, self._fault)
        self.script = script

    def _fault(self, operation: str, key: str, do: Callable[[], Any]) -> Any:
        match self.script.get((operation, self.calls[operation])):
            case "unavailable":
                raise Transient("503 SlowDown")
            case "conflict":
                raise Conflict("409 ConditionalRequestConflict")
            case "lost":
                do()
                raise Transient("ReadTimeoutError")
            case "full":
                raise ResourceError("cannot write 5 bytes to /disk/x: No space left on device")
            case _:
                return do()

    def put_file(self, key: str, source: Path, *, sha256: str) -> None:
        fault = self.script.get(("put_file", self.calls["put_file"] + 1))
        if fault not in ("truncate", "flip"):
            super().put_file(key, source, sha256=sha256)
            return
        self.calls["put_file"] += 1
        body = source.read_bytes()
        bad = body[:-1] if fault == "truncate" else bytes([body[0] ^ 1]) + body[1:]
        path = self.local_path(key)
        if path is None:
            self.inner.put(key, bad)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bad)


class Dying(Wrapped):
    """The process dies at the n-th call, before or after it takes effect; from then on no call reaches the store."""

    def __init__(self, inner: Backend, at: int, *, is_after: bool) -> None:
        super().__init__(inner, self._die)
        self.at = at
        self.is_after = is_after
        self.is_dead = False
        self.num_calls = 0

    def _die(self, operation: str, key: str, do: Callable[[], Any]) -> Any:
        if self.is_dead:
            raise Crash
        self.num_calls += 1
        if self.num_calls == self.at:
            self.is_dead = True
            if self.is_after:
                do()
            raise Crash
        return do()
