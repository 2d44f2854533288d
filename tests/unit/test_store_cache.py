"""The cache of a host: verified once, shared, and never trusted about size."""

import fcntl
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.store import FileEntry, Key, Store, StoreError, open_store
from pipeline.store.cache import Cache
from pipeline.store.digest import FileEntry as Entry
from pipeline.store.eviction import evict, limit_bytes
from tests.store_doubles import Faulty, MemoryBackend

KEY = Key("train", "a" * 64)


def store_with(backend: MemoryBackend | Faulty, cache: Path) -> Store:
    store = Store(backend, cache=Cache(cache))
    if store.find(KEY) is None:
        with store.attempt(KEY, identity={}, inputs={}) as attempt:
            attempt.path("weights.bin").write_bytes(b"weights")
            attempt.commit()
    return store


def read(store: Store) -> bytes:
    found = store.find(KEY)
    assert found is not None
    return found.read("weights.bin")


def test_a_remote_file_is_downloaded_once_per_host(tmp_path: Path) -> None:
    faulty = Faulty(MemoryBackend(), {})
    store = store_with(faulty, tmp_path)
    before = faulty.calls["read"]
    for _ in range(3):
        assert read(store) == b"weights"
        assert read(Store(faulty, cache=Cache(tmp_path))) == b"weights"
    assert faulty.calls["read"] == before + 1


def test_threads_that_want_one_file_download_it_once(tmp_path: Path) -> None:
    faulty = Faulty(MemoryBackend(), {})
    store = store_with(faulty, tmp_path)
    before = faulty.calls["read"]
    threads = [threading.Thread(target=read, args=(store,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faulty.calls["read"] == before + 1


def test_a_cached_file_of_another_size_is_fetched_again(tmp_path: Path) -> None:
    store = store_with(MemoryBackend(), tmp_path)
    found = store.find(KEY)
    assert found is not None
    path = found.path("weights.bin")
    path.chmod(0o644)
    path.write_bytes(b"weig")
    assert found.read("weights.bin") == b"weights"


def test_cached_files_are_read_only(tmp_path: Path) -> None:
    found = store_with(MemoryBackend(), tmp_path).find(KEY)
    assert found is not None
    assert found.path("weights.bin").stat().st_mode & 0o222 == 0


def test_a_local_file_is_hashed_once_per_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store", cache=tmp_path / "writer")
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(b"weights")
        attempt.commit()
    hashed: list[Path] = []
    original = FileEntry.of_file
    monkeypatch.setattr(Entry, "of_file", lambda path: hashed.append(path) or original(path))
    for _ in range(3):  # three readers on another host
        read(open_store(tmp_path / "store", cache=tmp_path / "reader"))
    assert len(hashed) == 1


def test_a_cache_that_cannot_be_written_still_lets_local_files_be_read(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    store = open_store(tmp_path / "store", cache=tmp_path / "cache")
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(b"weights")
        attempt.commit()
    assert read(store) == b"weights"


def test_a_store_with_the_default_cache_survives_pickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "here"))
    store = pickle.loads(pickle.dumps(open_store(tmp_path / "store")))
    assert store.cache.root == tmp_path / "here"


def copies(tmp_path: Path, ages_s: list[float]) -> list[Path]:
    """Copies of 100 bytes that were used so many seconds ago."""
    paths = [tmp_path / f"{number:02d}" / "digest" / "data.bin" for number in range(len(ages_s))]
    for path, age_s in zip(paths, ages_s, strict=True):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(100))
        os.utime(path, times=(time.time() - age_s,) * 2)
    return paths


def test_the_longest_unused_copies_go_first_until_the_rest_fits(tmp_path: Path) -> None:
    oldest, middle, newest = copies(tmp_path, [9000.0, 8000.0, 7000.0])
    assert evict(tmp_path, limit=250) == [oldest]
    assert evict(tmp_path, limit=100) == [middle]
    assert newest.exists()


def test_copies_used_lately_stay_over_the_limit(tmp_path: Path) -> None:
    old, young = copies(tmp_path, [9000.0, 10.0])
    assert evict(tmp_path, limit=0) == [old]
    assert young.exists()


def test_using_a_copy_keeps_it(tmp_path: Path) -> None:
    store = store_with(MemoryBackend(), tmp_path)
    found = store.find(KEY)
    assert found is not None
    path = found.path("weights.bin")
    os.utime(path, times=(0.0, 0.0))
    found.path("weights.bin")
    assert evict(tmp_path / "objects", limit=0) == []


def test_a_nonsensical_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_BYTES", "many")
    with pytest.raises(StoreError, match="PIPELINE_CACHE_BYTES"):
        limit_bytes()


def test_scratch_directories_go_at_the_end(tmp_path: Path) -> None:
    with Cache(tmp_path).scratch() as directory:
        (directory / "x").write_bytes(b"x")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_scratch_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from pipeline.store.cache import Cache\n"
        "scratch = Cache(Path(sys.argv[1])).scratch(); scratch.__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False)
    dead = sorted((tmp_path / "scratch").iterdir())
    assert len(dead) == 2  # directory and lock
    with Cache(tmp_path).scratch() as living, Cache(tmp_path).scratch():
        assert not any(path.exists() for path in dead)
        assert living.exists()


def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "here"))
    assert Cache().root == tmp_path / "here"


def test_without_a_home_the_cache_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.delenv("PIPELINE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = Cache().root
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o077 == 0
    assert root.stat().st_uid == os.getuid()


def test_the_lock_of_an_object_is_free_after_use(tmp_path: Path) -> None:
    cache, entry = Cache(tmp_path), FileEntry(1, "a" * 64)
    with cache.exclusive(entry):
        pass
    with (tmp_path / "locks" / entry.sha256).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
