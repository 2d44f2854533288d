"""Collection: only what is unreachable, old by the store's clock and under no live lease."""

from pathlib import Path

import pytest

from pipeline.store import (
    ArtifactDamaged,
    Key,
    LeaseHeld,
    Retry,
    Store,
    StoreError,
    collect,
    fingerprint,
    open_store,
    recorded_roots,
)
from pipeline.store.cache import Cache
from pipeline.store.layout import manifest_key
from tests.store_doubles import FakeClock, MemoryBackend, Wrapped

DAY_S = 86400.0


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def store(backend: MemoryBackend, tmp_path: Path) -> Store:
    return Store(backend, cache=Cache(tmp_path / "cache"), retry=Retry(clock=FakeClock()))


def make(store: Store, name: str, **inputs: Key) -> Key:
    key = Key("train", fingerprint("train", 1, name, inputs))
    with store.attempt(key, identity=name, inputs=inputs) as attempt:
        attempt.path("data.bin").write_bytes(name.encode())
        attempt.commit()
    return key


def test_old_unreachable_artifacts_go_and_reachable_ones_stay(store: Store, backend: MemoryBackend) -> None:
    shards, other = make(store, "shards"), make(store, "other")
    weights = make(store, "weights", shards=shards)
    images = make(store, "images", weights=weights)
    backend.seconds += 8 * DAY_S
    result = collect(store, [images], dry_run=False)
    assert set(store.keys()) == {shards, weights, images}
    assert result.removed == (f"artifacts/{other}/",)
    assert result.num_kept == 3


def test_a_dry_run_is_the_default_and_removes_nothing(store: Store, backend: MemoryBackend) -> None:
    key = make(store, "old")
    backend.seconds += 8 * DAY_S
    before = dict(backend.objects)
    result = collect(store, [])
    assert result.is_dry_run
    assert result.removed == (f"artifacts/{key}/",)
    assert result.size_bytes == sum(len(found.body) for found in before.values())
    assert backend.objects == before


def test_young_artifacts_stay_with_their_old_inputs(store: Store, backend: MemoryBackend) -> None:
    shards = make(store, "shards")
    backend.seconds += 8 * DAY_S
    weights = make(store, "weights", shards=shards)
    assert collect(store, [], dry_run=False).removed == ()
    assert set(store.keys()) == {shards, weights}


def test_a_live_lease_protects_an_old_attempt(store: Store, backend: MemoryBackend) -> None:
    key = Key("train", "a" * 64)
    backend.put(f"artifacts/{key}/attempts/old/data.bin", b"x")
    backend.seconds += 8 * DAY_S
    with store.lease(key, owner="trainer", ttl_s=3600.0):
        assert collect(store, [], dry_run=False).removed == ()
    assert collect(store, [], dry_run=False).removed == (f"artifacts/{key}/",)


def test_an_expired_lease_protects_nothing_and_goes(store: Store, backend: MemoryBackend) -> None:
    key = make(store, "old")
    backend.put(f"leases/{key}", b'{"nonce":"0","owner":"dead","ttl_s":90.0}')
    backend.seconds += 8 * DAY_S
    collect(store, [], dry_run=False)
    assert backend.objects == {}


def test_debris_of_a_dead_attempt_beside_a_finished_artifact_goes(store: Store, backend: MemoryBackend) -> None:
    key = make(store, "kept")
    backend.put(f"artifacts/{key}/attempts/dead/data.bin", b"x")
    backend.seconds += 8 * DAY_S
    assert collect(store, [key], dry_run=False).removed == (f"artifacts/{key}/attempts/dead/",)
    found = store.find(key)
    assert found is not None
    assert found.read("data.bin") == b"kept"


def test_state_of_a_reachable_unfinished_key_stays_and_other_old_state_goes(
    store: Store, backend: MemoryBackend
) -> None:
    wanted, other = Key("train", "a" * 64), Key("train", "b" * 64)
    for key in (wanted, other):
        store.state(key.stage, key.fingerprint).save(1, {"weights.bin": b"w"})
    backend.seconds += 8 * DAY_S
    assert collect(store, [wanted], dry_run=False).removed == (f"state/{other}/",)
    assert store.state("train", wanted.fingerprint).latest() is not None


def test_old_state_of_a_finished_artifact_goes(store: Store, backend: MemoryBackend) -> None:
    key = make(store, "done")
    store.state(key.stage, key.fingerprint).save(1, {"weights.bin": b"w"})
    assert collect(store, [key], dry_run=False).removed == ()
    backend.seconds += 8 * DAY_S
    assert collect(store, [key], dry_run=False).removed == (f"state/{key}/",)


def test_documents_are_never_touched(store: Store, backend: MemoryBackend) -> None:
    store.documents("grids/quick").put("plan.json", b"{}")
    backend.seconds += 800 * DAY_S
    collect(store, [], dry_run=False)
    assert store.documents("grids/quick").get("plan.json") == b"{}"


def test_what_becomes_used_during_the_wait_stays(store: Store, backend: MemoryBackend) -> None:
    key = make(store, "old")
    backend.seconds += 8 * DAY_S
    looks = [[], [key]]
    assert collect(store, lambda: looks.pop(0), dry_run=False).removed == ()
    assert list(store.keys()) == [key]


def test_an_artifact_made_again_during_the_wait_stays(store: Store, backend: MemoryBackend) -> None:
    key = make(store, "old")
    backend.seconds += 8 * DAY_S

    class Remaking(FakeClock):
        def sleep(self, seconds: float) -> None:
            backend.delete(manifest_key(key))
            make(store, "old")

    waiting = Store(backend, cache=store.cache, retry=Retry(clock=Remaking()))
    collect(waiting, [], dry_run=False)
    assert list(store.keys()) == [key]


def test_one_collection_at_a_time(store: Store, backend: MemoryBackend) -> None:
    make(store, "old")
    backend.seconds += 8 * DAY_S
    with store.lease("collector", owner="other", ttl_s=3600.0), pytest.raises(LeaseHeld):
        collect(store, [], dry_run=False)


def test_an_unreadable_needed_manifest_stops_the_collection(store: Store, backend: MemoryBackend) -> None:
    shards = make(store, "shards")
    weights = make(store, "weights", shards=shards)
    backend.put(manifest_key(weights), b"{")
    backend.seconds += 8 * DAY_S
    with pytest.raises(ArtifactDamaged):
        collect(store, [weights], dry_run=False)
    assert shards in set(store.keys())


def test_stray_files_are_left_alone(store: Store, backend: MemoryBackend) -> None:
    for key in ("artifacts/notes.txt", "artifacts/train/README", "artifacts/A/b/c/d", "state/x"):
        backend.put(key, b"x")
    backend.seconds += 8 * DAY_S
    assert collect(store, [], dry_run=False).removed == ()
    assert list(store.keys()) == []


def test_a_negative_age_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="negative"):
        collect(store, [], older_than_days=-1)


def test_roots_are_read_from_the_plans(store: Store) -> None:
    key = Key("train", "a" * 64)
    store.documents("grids/quick").put("plan.json", f'{{"cells": [{{"train": "{key}", "x": "a/b"}}]}}'.encode())
    store.documents("grids/quick").put("status/x.json", f'"{Key("train", "b" * 64)}"'.encode())
    assert recorded_roots(store) == [key]


def test_real_stores_are_collected_with_their_temporary_files(store_url: str, tmp_path: Path) -> None:
    real = open_store(store_url, cache=tmp_path / "cache")
    later = Wrapped(real.objects.backend, lambda operation, key, do: do(), offset_s=8 * DAY_S)
    store = Store(later, cache=real.cache, retry=Retry(clock=FakeClock()))
    kept, old = make(store, "kept"), make(store, "old")
    leave_debris(store_url)
    collect(store, [kept], dry_run=False)
    assert list(store.keys()) == [kept]
    assert not [stat for stat in store.objects.scan("") if old.fingerprint in stat.key]
    assert store.objects.debris() == []


def leave_debris(store_url: str) -> None:
    """What a killed writer leaves: a temporary file and an empty directory, or an open multipart upload."""
    if store_url.startswith("s3://"):
        from pipeline.store.s3 import client_of, endpoint_of_environment

        bucket = store_url.split("/")[2]
        client = client_of(endpoint_of_environment(), 0)
        client.create_multipart_upload(Bucket=bucket, Key="prefix/artifacts/train/x/attempts/y/data.bin")
    else:
        (Path(store_url) / "tmp" / "dead").write_bytes(b"x")
        (Path(store_url) / "artifacts" / "train" / ("c" * 64) / "attempts" / "dead").mkdir(parents=True)
