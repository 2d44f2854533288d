"""Leases: one holder, takeover by the store's clock only, and stale owners cannot come back."""

import time
from pathlib import Path

import pytest

from pipeline.store import Key, LeaseHeld, LeaseLost, Retry, Store, StoreUnavailable, open_store
from pipeline.store.layout import lease_key
from pipeline.store.lease import Lease
from pipeline.store.objects import Objects
from tests.store_doubles import FakeClock, Faulty, MemoryBackend

KEY = Key("train", "a" * 64)
TTL_S = 90.0


def lease_of(backend, owner: str, clock: FakeClock | None = None) -> Lease:
    return Lease(Objects(backend, Retry(clock=clock or FakeClock())), lease_key(KEY), owner=owner, ttl_s=TTL_S)


def test_a_second_owner_is_told_who_holds_it_and_for_how_long() -> None:
    backend = MemoryBackend()
    lease_of(backend, "first").acquire()
    backend.seconds += 30.0
    with pytest.raises(LeaseHeld) as refusal:
        lease_of(backend, "second").acquire()
    assert (refusal.value.owner, refusal.value.age_s) == ("first", 30.0)


def test_a_lease_that_was_not_renewed_is_taken_over() -> None:
    backend = MemoryBackend()
    lease_of(backend, "first").acquire()
    backend.seconds += TTL_S + 3.0
    second = lease_of(backend, "second")
    second.acquire()
    assert second.is_held


def test_the_owner_is_known_until_it_is_released_or_too_old() -> None:
    backend = MemoryBackend()
    store = Store(backend)
    assert store.lease_owner(KEY) is None
    first = lease_of(backend, "first")
    first.acquire()
    assert store.lease_owner(KEY) == "first"
    backend.seconds += TTL_S + 3.0
    assert store.lease_owner(KEY) is None
    second = lease_of(backend, "second")
    second.acquire()
    assert store.lease_owner(KEY) == "second"
    second.release()
    assert store.lease_owner(KEY) is None


def test_renewal_keeps_others_out() -> None:
    backend = MemoryBackend()
    first = lease_of(backend, "first")
    first.acquire()
    for _ in range(10):
        backend.seconds += TTL_S / 3
        first.renew()
    with pytest.raises(LeaseHeld):
        lease_of(backend, "second").acquire()


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_a_skewed_local_clock_takes_nothing_over(skew_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    lease_of(backend, "first").acquire()
    here = time.time()
    monkeypatch.setattr(time, "time", lambda: here + skew_s)
    with pytest.raises(LeaseHeld):
        lease_of(backend, "second", FakeClock(seconds=max(0.0, skew_s))).acquire()


def test_a_stale_owner_cannot_renew_after_a_takeover() -> None:
    backend = MemoryBackend()
    stale = lease_of(backend, "stale")
    stale.acquire()
    backend.seconds += TTL_S + 3.0
    lease_of(backend, "new").acquire()
    with pytest.raises(LeaseLost):
        stale.renew()
    assert not stale.is_held
    with pytest.raises(LeaseLost):
        stale.require()


def test_a_stale_owner_does_not_release_the_lease_of_the_new_one() -> None:
    backend = MemoryBackend()
    stale, new = lease_of(backend, "stale"), lease_of(backend, "new")
    stale.acquire()
    backend.seconds += TTL_S + 3.0
    new.acquire()
    stale.release()
    with pytest.raises(LeaseHeld, match="held by new"):
        lease_of(backend, "third").acquire()


def test_a_released_lease_is_free_at_once_and_leaves_nothing() -> None:
    backend = MemoryBackend()
    first = lease_of(backend, "first")
    first.acquire()
    first.release()
    assert backend.objects == {}
    assert not first.is_held
    lease_of(backend, "second").acquire()


def test_no_body_is_written_twice() -> None:
    backend = MemoryBackend()
    lease = lease_of(backend, "first")
    lease.acquire()
    bodies = []
    for _ in range(5):
        bodies.append(backend.get(lease_key(KEY)).body)
        lease.renew()
    assert len(set(bodies)) == 5


def test_an_owner_that_does_not_renew_stops_believing_in_its_lease() -> None:
    clock = FakeClock()
    lease = lease_of(MemoryBackend(), "first", clock)
    lease.acquire()
    clock.seconds += TTL_S + 1.0
    assert not lease.is_held


def test_a_lease_that_vanished_is_taken_again_by_its_owner() -> None:
    backend = MemoryBackend()
    lease = lease_of(backend, "first")
    lease.acquire()
    backend.delete(lease_key(KEY))
    lease.renew()
    assert lease.is_held
    with pytest.raises(LeaseHeld):
        lease_of(backend, "second").acquire()


def test_a_renewal_whose_reply_was_lost_is_recognised() -> None:
    faulty = Faulty(MemoryBackend(), {("put_if_match", 1): "lost"})
    lease = lease_of(faulty, "first")
    lease.acquire()
    lease.renew()
    assert lease.is_held


def test_after_a_renewal_without_any_answer_the_next_one_succeeds() -> None:
    script = {("put_if_match", number): "unavailable" for number in range(2, 200)}
    faulty = Faulty(MemoryBackend(), {**script, ("put_if_match", 1): "lost"})
    lease = lease_of(faulty, "first")
    lease.acquire()
    with pytest.raises(StoreUnavailable):
        lease.renew()
    faulty.script.clear()
    lease.renew()
    assert lease.is_held


def test_an_unreadable_lease_counts_as_held_until_it_is_very_old() -> None:
    backend = MemoryBackend()
    backend.put(lease_key(KEY), b"\xff")
    backend.seconds += 600.0
    with pytest.raises(LeaseHeld, match="unreadable"):
        lease_of(backend, "first").acquire()
    backend.seconds += 3600.0
    lease_of(backend, "first").acquire()


def test_a_real_store_gives_the_lease_to_one_and_takes_it_back(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url, cache=tmp_path / "cache")
    with store.lease(KEY, owner="first", ttl_s=60.0) as lease:
        assert lease.is_held
        with pytest.raises(LeaseHeld, match="held by first"), store.lease(KEY, owner="second", ttl_s=60.0):
            pass
        lease.renew()
    assert store.objects.scan("leases/") == []


def test_the_thread_renews(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", cache=tmp_path / "cache")
    with store.lease("grids/quick", owner="driver", ttl_s=0.15):
        first = store.objects.get("leases/grids/quick")
        deadline = time.monotonic() + 10.0
        while store.objects.get("leases/grids/quick") == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert store.objects.get("leases/grids/quick") != first
