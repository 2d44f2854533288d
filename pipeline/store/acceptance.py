"""The list that a place has to pass before it may be the store of a cluster, each point tried and not believed."""

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pipeline.store.backend import Backend, BackendError, Changed, Conflict, Exists
from pipeline.store.errors import ResourceError, StoreError
from pipeline.store.layout import PREFLIGHT
from pipeline.store.names import new_ulid
from pipeline.store.s3 import S3Backend
from pipeline.store.store import Store

NUM_RACERS = 16
SMALL_BYTES = 64
LARGE_BYTES = 3 << 19  # 1.5 MiB: more than one buffer of the servers seen so far
ROUNDS = 3
NUM_TRIES = 5
"""Answers that say to come back are asked again so often."""

Listed = tuple[str, bool, Callable[[], str | None]]


@dataclass(frozen=True)
class Check:
    """One point of the list.

    Attributes:
        name: what was asked for.
        problem: what happened instead; None if it passed.
        guards_drivers: whether two drivers could harm each other where it fails. Conditions on multipart uploads are
            asked for, but manifests and leases, which decide, are small and put in one piece.
    """

    name: str
    problem: str | None
    guards_drivers: bool

    @property
    def is_good(self) -> bool:
        return self.problem is None

    def __str__(self) -> str:
        return self.name if self.problem is None else f"{self.name}: {self.problem}"


def acceptance(store: Store) -> Iterator[Check]:
    """Try everything, in a folder of probes that is removed afterwards; nothing raises.

    A directory is asked for the races alone; S3 for what is said in `acceptance_s3` as well.
    """
    backend = store.objects.backend
    folder = f"{PREFLIGHT}/{new_ulid()}"
    try:
        for name, guards, ask in _listed(backend, folder):
            yield Check(name, _problem(ask), guards)
    finally:
        _swept(backend, folder)


def verdict(checks: list[Check]) -> str:
    """What a place with these answers may be used for."""
    if all(check.is_good for check in checks):
        return "may be the store of a cluster, with any number of drivers"
    if all(check.is_good for check in checks if check.guards_drivers):
        return "drivers are safe from each other here; cure what is BAD before it is trusted with results"
    return "may be used by one driver only (--single-driver): two of them could both commit, or both hold a lease"


def _listed(backend: Backend, folder: str) -> Iterator[Listed]:
    if isinstance(backend, S3Backend):
        from pipeline.store.acceptance_s3 import s3_checks

        yield from s3_checks(backend, folder)
    for what, size in (("64 byte", SMALL_BYTES), ("1.5 MiB", LARGE_BYTES)):
        yield (
            f"{NUM_RACERS} writers create one object of {what}, one wins",
            True,
            partial(create_race, backend, folder, size),
        )
        yield (
            f"{NUM_RACERS} writers replace one version of {what}, one wins",
            True,
            partial(replace_race, backend, folder, size),
        )


def _problem(ask: Callable[[], str | None]) -> str | None:
    try:
        return ask()
    except (BackendError, StoreError, ResourceError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _swept(backend: Backend, folder: str) -> None:
    try:
        backend.discard(f"{folder}/")
    except (BackendError, StoreError):  # probes are collected later; what was wrong was told
        return


def create_race(backend: Backend, folder: str, size: int) -> str | None:
    """Several writers, one absent key: exactly one may win, and its bytes have to be there."""
    for _ in range(ROUNDS):
        key = f"{folder}/{new_ulid()}"
        problem = _race(backend, key, size, partial(backend.put_if_absent, key))
        if problem is not None:
            return problem
    return None


def replace_race(backend: Backend, folder: str, size: int) -> str | None:
    """Several writers, one version: exactly one may replace it, and its bytes have to be there."""
    for _ in range(ROUNDS):
        key = f"{folder}/{new_ulid()}"
        version = backend.put_if_absent(key, secrets.token_bytes(size))
        problem = _race(backend, key, size, partial(backend.put_if_match, key, version=version))
        if problem is not None:
            return problem
    return None


def _race(backend: Backend, key: str, size: int, write: Callable[[bytes], str]) -> str | None:
    bodies = [secrets.token_bytes(size) for _ in range(NUM_RACERS)]
    start = threading.Barrier(NUM_RACERS)

    def racer(body: bytes) -> bytes | None:
        start.wait(timeout=60)
        return body if _won(write, body) else None

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        winners = [body for body in pool.map(racer, bodies) if body is not None]
    if len(winners) != 1:
        return f"{len(winners)} of {NUM_RACERS} were told that they had won"
    found = backend.get(key).body
    if found != winners[0]:
        stored = next((f"writer {index}'s" for index, body in enumerate(bodies) if body == found), "nobody's")
        return f"{stored} bytes are there and not the winner's ({len(found)} bytes, sha256 {_digest(found)})"
    return None


def _won(write: Callable[[bytes], str], body: bytes) -> bool:
    """Whether a writer was told that it won; HTTP 409 means that it may try again, and nothing was written."""
    for _ in range(NUM_TRIES):
        try:
            write(body)
            return True
        except (Exists, Changed):
            return False
        except Conflict:
            continue
    return False


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:12]
