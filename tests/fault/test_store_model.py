"""Every interleaving of two writers, and of a writer with the collector, with a crash at each step.

The real protocol runs in threads that are let through one storage operation at a time; a schedule is a string of
actors, and whoever has not finished at its end has crashed there.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import ArtifactDamaged, Key, Retry, Store, collect
from pipeline.store.cache import Cache
from pipeline.store.layout import attempt_prefix
from tests.store_doubles import Crash, FakeClock, MemoryBackend, Wrapped

KEY = Key("train", "a" * 64)
DAY_S = 86400.0
WRITES = {"put_file", "head", "read", "put_if_absent", "get", "discard"}


class Actor:
    """A thread that stops before each storage operation that others can notice.

    Args:
        backend: the store all actors share.
        work: called with this actor's view of the store.
        is_step: (operation, key) -> whether the operation is one that others can notice.
    """

    def __init__(
        self, backend: MemoryBackend, work: Callable[[Wrapped], Any], is_step: Callable[[str, str], bool]
    ) -> None:
        self.result: Any = None
        self._is_step = is_step
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._is_crashed = self.is_finished = False
        self._work = work
        self._backend = Wrapped(backend, self._gate)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def _run(self) -> None:
        try:
            self.result = self._work(self._backend)
        except Crash:
            pass
        except Exception as error:
            self.result = error
        self.is_finished = True
        self._stopped.release()

    def _gate(self, operation: str, key: str, do: Callable[[], Any]) -> Any:
        if self._is_step(operation, key) and not self._is_crashed:
            self._stopped.release()
            self._go.acquire()
        if self._is_crashed:
            raise Crash
        return do()

    def step(self) -> None:
        self._go.release()
        self._stopped.acquire()

    def crash(self) -> None:
        if not self.is_finished:
            self._is_crashed = True
            self.step()
        self._thread.join()


def explore(start: Callable[[], tuple[dict[str, Actor], Callable[[], None]]], *, at_end: Callable[..., None]) -> int:
    """Run every schedule; the number of schedules."""
    pending, num_runs = [""], 0
    while pending:
        schedule = pending.pop()
        actors, check = start()
        for name in schedule:
            actors[name].step()
            check()
        alive = [name for name, actor in actors.items() if not actor.is_finished]
        pending += [schedule + name for name in alive]
        for actor in actors.values():
            actor.crash()
        check()
        at_end(actors, not alive)
        num_runs += 1
    return num_runs


def write(store: Store, body: bytes) -> Any:
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("data.bin").write_bytes(body)
        return attempt.commit()


def visible(backend: MemoryBackend, cache: Cache) -> tuple[str, bytes] | None:
    """The attempt that a reader sees and its stored bytes; fails if it is torn."""
    found = Store(backend, cache=cache).find(KEY)
    if found is None:
        return None
    body = backend.get(attempt_prefix(KEY, found.attempt) + "data.bin").body
    assert len(body) == found.files["data.bin"].size
    assert found.read("data.bin") == body
    return found.attempt, body


def test_two_writers_crash_anywhere_and_readers_see_one_whole_unchanging_result(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    world: dict[str, MemoryBackend] = {}

    def start() -> tuple[dict[str, Actor], Callable[[], None]]:
        backend = world["backend"] = MemoryBackend()
        seen: list[tuple[str, bytes]] = []

        def writer(body: bytes) -> Actor:
            def work(view: Wrapped) -> Any:
                return write(Store(view, cache=cache), body)

            return Actor(backend, work, lambda operation, key: operation in WRITES)

        def check() -> None:
            now = visible(backend, cache)
            if now is not None:
                seen.append(now)
            assert len(set(seen)) <= 1
            assert now is not None or not seen

        return {"a": writer(b"a"), "b": writer(b"bb")}, check

    def at_end(actors: dict[str, Actor], is_undisturbed: bool) -> None:
        backend = world["backend"]
        results = [actor.result.attempt for actor in actors.values() if actor.result is not None]
        assert len(set(results)) <= 1
        if is_undisturbed:
            assert len(results) == 2
            assert len(backend.objects) == 2  # the manifest and the winner's file
        final = write(Store(backend, cache=cache), b"later")
        assert visible(backend, cache) is not None
        assert not results or final.attempt == results[0]

    assert explore(start, at_end=at_end) > 100


def is_collector_step(operation: str, key: str) -> bool:
    return key.startswith("artifacts/") and operation in {"scan", "get", "delete"}


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_collector_never_removes_what_a_writer_just_committed(tmp_path: Path, is_committed: bool) -> None:
    cache = Cache(tmp_path)
    world: dict[str, MemoryBackend] = {}

    def collector(view: Wrapped) -> Any:
        return collect(Store(view, cache=cache, retry=Retry(clock=FakeClock())), [], dry_run=False)

    def writer(view: Wrapped) -> Any:
        store = Store(view, cache=cache)
        return "found" if store.find(KEY) else write(store, b"new").attempt

    def start() -> tuple[dict[str, Actor], Callable[[], None]]:
        backend = world["backend"] = MemoryBackend()
        if is_committed:
            write(Store(backend, cache=cache), b"old")
        else:
            backend.put(attempt_prefix(KEY, "dead") + "data.bin", b"old")
        backend.seconds += 8 * DAY_S
        actors = {
            "c": Actor(backend, collector, is_collector_step),
            "w": Actor(backend, writer, lambda operation, key: operation in {"put_file", "put_if_absent", "get"}),
        }
        return actors, lambda: None

    def at_end(actors: dict[str, Actor], is_undisturbed: bool) -> None:
        result = actors["w"].result
        if result not in (None, "found"):
            seen = visible(world["backend"], cache)
            assert seen is not None
            assert result == seen[0]
        assert not isinstance(actors["c"].result, Exception)

    assert explore(start, at_end=at_end) > 30


def test_a_reader_of_what_is_being_collected_gets_bytes_or_a_named_error(tmp_path: Path) -> None:
    world: dict[str, Any] = {"number": 0}

    def reader(view: Wrapped) -> Any:
        found = Store(view, cache=world["cache"]).find(KEY)
        return None if found is None else found.read("data.bin")

    def collector(view: Wrapped) -> Any:
        store = Store(view, cache=world["cache"], retry=Retry(clock=FakeClock()))
        return collect(store, [], dry_run=False)

    def start() -> tuple[dict[str, Actor], Callable[[], None]]:
        world["number"] += 1
        world["cache"] = Cache(tmp_path / str(world["number"]))
        backend = MemoryBackend()
        write(Store(backend, cache=world["cache"]), b"old")
        backend.seconds += 8 * DAY_S
        actors = {
            "c": Actor(backend, collector, lambda operation, key: operation == "delete" and "artifacts" in key),
            "r": Actor(backend, reader, lambda operation, key: operation in {"get", "read"}),
        }
        return actors, lambda: None

    def at_end(actors: dict[str, Actor], is_undisturbed: bool) -> None:
        result = actors["r"].result
        assert result in (None, b"old") or isinstance(result, ArtifactDamaged)

    assert explore(start, at_end=at_end) > 10
