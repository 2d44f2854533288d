"""Scripted faults over both kinds of store and a clock that only counts: same result, or nothing and a named error."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.store import (
    Artifact,
    Key,
    LeaseLost,
    ResourceError,
    Retry,
    Store,
    StoreUnavailable,
    fingerprint,
    open_store,
    verify,
)
from pipeline.store.backend import Backend
from pipeline.store.cache import Cache
from pipeline.store.lease import Lease
from tests.store_doubles import Crash, Dying, FakeClock, Faulty, MemoryBackend

KEY = Key("train", fingerprint("train", 1, {}, {}))
OPERATIONS = ["put_file", "head", "put_if_absent"]
Script = dict[tuple[str, int], str]


@pytest.fixture
def inner(store_url: str) -> Backend:
    return open_store(store_url).objects.backend


@pytest.fixture
def over(tmp_path: Path) -> Callable[[Backend], Store]:
    """A store over a backend, with a clock that only counts."""
    return lambda backend: Store(backend, cache=Cache(tmp_path / "cache"), retry=Retry(clock=FakeClock()))


def commit(store: Store, body: bytes = b"weights") -> Artifact:
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(body)
        attempt.path("curve.bin").write_bytes(b"curve")
        return attempt.commit()


def assert_whole(store: Store) -> None:
    """One complete artifact and nothing else."""
    assert verify(store) == []
    assert list(store.keys()) == [KEY]
    assert len(store.objects.scan("")) == 3
    assert store.objects.debris() == []


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", ["unavailable", "conflict", "lost"])
def test_a_fault_that_passes_changes_nothing(inner: Backend, over, operation: str, fault: str) -> None:
    script = {(operation, number): fault for number in (1, 2)}
    artifact = commit(over(Faulty(inner, script)))
    assert artifact.read("weights.bin") == b"weights"
    assert_whole(over(inner))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_outage_longer_than_the_budget_leaves_nothing_visible(inner: Backend, over, operation: str) -> None:
    faulty = Faulty(inner, {(operation, number): "unavailable" for number in range(1, 1000)})
    with pytest.raises(StoreUnavailable):
        commit(over(faulty))
    assert over(inner).find(KEY) is None
    assert [stat.key for stat in over(inner).objects.scan("") if stat.key.endswith("manifest.json")] == []


def test_a_lost_commit_reply_is_known_as_the_own_victory(inner: Backend, over) -> None:
    artifact = commit(over(Faulty(inner, {("put_if_absent", 1): "lost"})))
    found = over(inner).find(KEY)
    assert found is not None
    assert found.attempt == artifact.attempt
    assert_whole(over(inner))


def test_after_a_lost_reply_the_others_victory_is_accepted(inner: Backend, over) -> None:
    winner: list[Artifact] = []

    class Overtaken(Faulty):
        def put_if_absent(self, key: str, body: bytes) -> str:
            if not winner:
                winner.append(commit(over(inner), b"theirs"))
            return super().put_if_absent(key, body)

    artifact = commit(over(Overtaken(inner, {("put_if_absent", 1): "unavailable"})), b"mine")
    assert artifact.attempt == winner[0].attempt
    assert artifact.read("weights.bin") == b"theirs"
    assert_whole(over(inner))


def test_when_the_outcome_of_a_commit_stays_unknown_its_files_stay(over) -> None:
    backend = MemoryBackend()
    script = {("put_if_absent", number): "unavailable" for number in range(2, 1000)}
    with pytest.raises(StoreUnavailable):
        commit(over(Faulty(backend, {**script, ("put_if_absent", 1): "lost"})))
    found = over(backend).find(KEY)
    assert found is not None
    assert found.read("weights.bin") == b"weights"


def test_when_the_outcome_of_a_state_stays_unknown_it_counts_or_not_but_is_not_torn(over) -> None:
    backend = MemoryBackend()
    script = {("put_if_absent", number): "unavailable" for number in range(2, 1000)}
    states = over(Faulty(backend, {**script, ("put_if_absent", 1): "lost"})).state("train", KEY.fingerprint)
    with pytest.raises(StoreUnavailable):
        states.save(1, {"weights.bin": b"one"})
    state = over(backend).state("train", KEY.fingerprint).latest()
    assert state is not None
    assert state.read("weights.bin") == b"one"


@pytest.mark.parametrize("fault", ["truncate", "flip"])
def test_a_corrupt_put_is_never_visible(store_url: str, inner: Backend, over, fault: str) -> None:
    store = over(Faulty(inner, {("put_file", 1): fault}))
    if store_url.startswith("s3://"):  # the source is elsewhere, so the put is repeated
        assert commit(store).read("weights.bin") == b"weights"
        assert_whole(over(inner))
    elif fault == "truncate":  # the file itself is what was damaged
        with pytest.raises(StoreUnavailable, match="but the store has"):
            commit(store)
        assert over(inner).objects.scan("") == []


@pytest.mark.parametrize("fault", ["truncate", "flip"])
def test_a_put_that_stays_corrupt_is_a_named_error(over, fault: str) -> None:
    backend = MemoryBackend()
    with pytest.raises(StoreUnavailable, match="but the store has"):
        commit(over(Faulty(backend, {("put_file", number): fault for number in range(1, 10)})))
    assert backend.objects == {}


@pytest.mark.parametrize("operation", ["workplace", *OPERATIONS])
def test_a_full_store_is_a_clear_error_and_stays_clean(inner: Backend, over, operation: str) -> None:
    with pytest.raises(ResourceError, match=r"/disk/x.*No space left"):
        commit(over(Faulty(inner, {(operation, 1): "full"})))
    assert over(inner).objects.scan("") == []
    assert over(inner).objects.debris() == []


@pytest.mark.parametrize("is_after", [False, True])
def test_a_crash_between_any_two_steps_leaves_all_or_nothing(inner: Backend, over, is_after: bool) -> None:
    at, is_finished = 0, False
    while not is_finished:
        at += 1
        dying = Dying(inner, at, is_after=is_after)
        try:
            commit(over(dying))
        except Crash:
            pass
        else:
            is_finished = True
        store = over(inner)
        assert verify(store) == []
        found = store.find(KEY)
        if found is not None:
            assert (found.read("weights.bin"), found.read("curve.bin")) == (b"weights", b"curve")
            inner.discard(f"artifacts/{KEY}/")
    assert at > len(OPERATIONS)


@pytest.mark.parametrize("is_after", [False, True])
def test_a_crash_while_saving_state_leaves_the_state_before(over, is_after: bool) -> None:
    at, is_finished = 0, False
    while not is_finished:
        at += 1
        backend = MemoryBackend()
        over(backend).state("train", KEY.fingerprint).save(1, {"weights.bin": b"one", "ema.bin": b"1"})
        try:
            over(Dying(backend, at, is_after=is_after)).state("train", KEY.fingerprint).save(
                2, {"weights.bin": b"two", "ema.bin": b"2"}
            )
        except Crash:
            pass
        else:
            is_finished = True
        state = over(backend).state("train", KEY.fingerprint).latest()
        assert state is not None
        assert (state.step, state.read("weights.bin"), state.read("ema.bin")) in [
            (1, b"one", b"1"),
            (2, b"two", b"2"),
        ]
        assert state.skipped == ()
    assert at > 5


def test_a_zombie_that_wakes_after_its_lease_changes_nothing(over) -> None:
    backend = MemoryBackend()
    store = over(backend)

    def lease(owner: str) -> Lease:
        return Lease(store.objects, f"leases/{KEY}", owner=owner, ttl_s=90.0)

    zombie, heir = lease("zombie"), lease("heir")
    zombie.acquire()
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(b"zombie")
        backend.seconds += 3600.0
        heir.acquire()
        theirs = commit(store, b"heir")
        before = dict(backend.objects)
        assert attempt.commit().attempt == theirs.attempt
    with pytest.raises(LeaseLost):
        zombie.renew()
    zombie.release()
    assert backend.objects == before


def test_the_n_th_retry_is_the_same_for_reading(inner: Backend, over, tmp_path: Path) -> None:
    commit(over(inner))
    script: Script = {("get", 1): "unavailable", ("read", 1): "lost", ("read", 2): "unavailable"}
    reader = Store(Faulty(inner, script), cache=Cache(tmp_path / "other"), retry=Retry(clock=FakeClock()))
    found = reader.find(KEY)
    assert found is not None
    assert found.read("weights.bin") == b"weights"
