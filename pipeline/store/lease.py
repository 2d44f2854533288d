"""Leases: who works on what. They save work; correctness rests on put-if-absent alone."""

import json
import logging
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager

from pipeline.store.backend import Object
from pipeline.store.canonical import canonical_json
from pipeline.store.errors import LeaseHeld, LeaseLost, StoreError, StoreUnavailable
from pipeline.store.objects import Objects

log = logging.getLogger(__name__)
CLOCK_GRAIN_S = 2.0  # HTTP dates have seconds
UNREADABLE_TTL_S = 3600.0
NUM_TRIES = 8
JOIN_TIMEOUT_S = 5.0


class Lease:
    """Held by whoever wrote the present body; a body is never written twice, so a stale owner cannot renew.

    Not thread-safe except for is_held.
    """

    def __init__(self, objects: Objects, name: str, *, owner: str, ttl_s: float) -> None:
        self.owner = owner
        self.ttl_s = ttl_s
        self._name = name
        self._objects = objects.with_retry(first_s=min(1.0, ttl_s / 30), budget_s=ttl_s / 3)
        self._clock = objects.retry.clock
        self._version = ""
        self._sent: set[bytes] = set()
        self._deadline_s = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the last renewal is younger than ttl, by the monotonic clock of this host."""
        return self._clock.monotonic() < self._deadline_s

    def require(self) -> None:
        """Raises LeaseLost unless held."""
        if not self.is_held:
            raise LeaseLost(f"{self._name}: {self.owner} did not renew within {self.ttl_s:.0f} s or was replaced")

    def acquire(self) -> None:
        """Take it, also from an owner who has not renewed for its ttl by the store's clock. Raises LeaseHeld."""
        for _ in range(NUM_TRIES):
            start = self._clock.monotonic()
            version = self._objects.create(self._name, self._fresh_body())
            if version is None:
                found = self._objects.get(self._name)
                if found is None:
                    continue
                owner, age_s, is_live = holder(self._objects, found)
                if is_live:
                    raise LeaseHeld(owner, age_s)
                version = self._objects.replace(self._name, self._fresh_body(), version=found.version)
                if version is None:
                    continue
                log.warning("event=lease_takeover lease=%s from=%s age_s=%.0f", self._name, owner, age_s)
            self._hold(version, start)
            return
        raise LeaseHeld("several others", 0.0)

    def renew(self) -> None:
        """Prove that the owner lives.

        Raises:
            LeaseLost: somebody else took it.
            StoreUnavailable: no answer in a third of the ttl; it may still be held.
        """
        start = self._clock.monotonic()
        body = self._fresh_body()
        version = self._objects.replace(self._name, body, version=self._version)
        if version is None:
            found = self._objects.get(self._name)
            if found is None:
                version = self._objects.create(self._name, body)
            elif found.body in self._sent:  # an earlier renewal whose reply never came
                version = self._objects.replace(self._name, body, version=found.version)
        if version is None:
            self._deadline_s = 0.0
            raise LeaseLost(f"{self._name} was taken from {self.owner}")
        self._hold(version, start)

    def release(self) -> None:
        """Give it back; one that was lost is left to its new owner."""
        self._deadline_s = 0.0
        body = canonical_json({"owner": self.owner, "nonce": secrets.token_hex(16), "ttl_s": 0.0, "released": True})
        version = self._objects.replace(self._name, body, version=self._version)
        if version is not None:
            self._objects.delete(self._name, version=version)

    def _hold(self, version: str, start_s: float) -> None:
        self._version = version
        self._deadline_s = start_s + self.ttl_s
        self._sent.clear()

    def _fresh_body(self) -> bytes:
        body = canonical_json({"owner": self.owner, "nonce": secrets.token_hex(16), "ttl_s": self.ttl_s})
        self._sent.add(body)
        return body


def holder(objects: Objects, found: Object) -> tuple[str, float, bool]:
    """(owner, age in seconds by the store's clock, whether it still holds) of a lease that was read."""
    try:
        record = json.loads(found.body)
        owner, ttl_s, is_released = str(record["owner"]), float(record["ttl_s"]), bool(record.get("released", False))
    except (ValueError, KeyError, TypeError, AttributeError):
        owner, ttl_s, is_released = "an unreadable lease", UNREADABLE_TTL_S, False
    age_s = max(0.0, objects.now() - found.modified_s)
    return owner, age_s, not is_released and age_s <= ttl_s + CLOCK_GRAIN_S


@contextmanager
def held(lease: Lease) -> Generator[Lease]:
    """The lease, acquired, renewed every ttl / 3 by a thread, and released at the end."""
    lease.acquire()
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(lease.ttl_s / 3):
            try:
                lease.renew()
            except LeaseLost as error:
                log.error("event=lease_lost reason=%s", error)
                return
            except (StoreError, StoreUnavailable) as error:
                log.warning("event=lease_not_renewed owner=%s error=%s", lease.owner, error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join(timeout=JOIN_TIMEOUT_S)
        try:
            if not thread.is_alive():  # else it waits for a store that is away, and the lease expires by itself
                lease.release()
        except (StoreError, StoreUnavailable) as error:
            log.warning("event=lease_not_released owner=%s error=%s", lease.owner, error)
