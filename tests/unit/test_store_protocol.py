"""The protocol over both kinds of store: what is visible when, and who wins."""

import pickle
import threading
from pathlib import Path

import pytest

from pipeline.store import ArtifactDamaged, Key, Store, StoreError, fingerprint, open_store, verify
from pipeline.store.layout import attempt_prefix

IDENTITY = {"steps": 3, "lr": 1e-4}
KEY = Key("train", fingerprint("train", 1, IDENTITY, {}))


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Store:
    return open_store(store_url, cache=tmp_path / "cache")


def commit(store: Store, body: bytes = b"weights", *, key: Key = KEY, inputs: dict[str, Key] | None = None):
    with store.attempt(key, identity=IDENTITY, inputs=inputs or {}) as attempt:
        attempt.path("weights.safetensors").write_bytes(body)
        return attempt.commit({"loss": 0.5})


def stored_keys(store: Store) -> list[str]:
    return [stat.key for stat in store.objects.scan("")]


def test_a_fresh_store_has_nothing(store: Store) -> None:
    assert store.find(KEY) is None
    assert list(store.keys()) == []


def test_a_committed_artifact_is_found_with_files_meta_and_identity(store: Store) -> None:
    commit(store)
    artifact = store.find(KEY)
    assert artifact is not None
    assert artifact.path("weights.safetensors").read_bytes() == b"weights"
    assert artifact.files["weights.safetensors"].size == 7
    assert (artifact.meta, artifact.identity, artifact.key) == ({"loss": 0.5}, IDENTITY, KEY)
    assert list(store.keys("train")) == [KEY]
    assert list(store.keys("sample")) == []


def test_inputs_are_kept_in_the_manifest(store: Store) -> None:
    parent = Key("ingest", "0" * 64)
    commit(store, inputs={"shards": parent})
    found = store.find(KEY)
    assert found is not None
    assert found.inputs == {"shards": parent}


def test_files_in_directories_keep_their_names(store: Store) -> None:
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("previews/000.png").write_bytes(b"png")
        attempt.path("empty.bin").write_bytes(b"")
        attempt.commit()
    found = store.find(KEY)
    assert found is not None
    assert found.path("previews/000.png").read_bytes() == b"png"
    assert found.path("empty.bin").read_bytes() == b""


def test_nothing_is_visible_before_the_commit(store: Store) -> None:
    with store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt:
        attempt.path("weights.safetensors").write_bytes(b"half")
        assert store.find(KEY) is None
        assert list(store.keys()) == []


def test_an_attempt_without_commit_leaves_nothing(store: Store) -> None:
    with store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt:
        attempt.path("weights.safetensors").write_bytes(b"half")
    assert stored_keys(store) == []


def test_an_error_inside_an_attempt_leaves_nothing_and_passes(store: Store) -> None:
    def fail() -> None:
        with store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt:
            attempt.path("weights.safetensors").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stored_keys(store) == []


def test_the_second_commit_gets_the_first_artifact_and_leaves_no_files(store: Store) -> None:
    first = commit(store, b"first")
    before = stored_keys(store)
    second = commit(store, b"second")
    assert second.attempt == first.attempt
    assert second.path("weights.safetensors").read_bytes() == b"first"
    assert stored_keys(store) == before


def test_of_sixteen_racing_commits_one_wins_and_all_get_it(store: Store) -> None:
    barrier = threading.Barrier(16)
    winners: list[str] = []

    def write(number: int) -> None:
        with store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt:
            attempt.path("weights.safetensors").write_bytes(b"%d" % number)
            barrier.wait()
            winners.append(attempt.commit().attempt)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 16
    assert len(set(winners)) == 1
    assert len(stored_keys(store)) == 2
    assert verify(store) == []


def test_an_announced_file_that_was_not_written_refuses_the_commit(store: Store) -> None:
    with store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt:
        attempt.path("curve.parquet")
        with pytest.raises(StoreError, match=r"not written: curve\.parquet"):
            attempt.commit()
    assert store.find(KEY) is None


def test_a_link_is_not_an_artifact_file(store: Store) -> None:
    with store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt:
        (attempt.directory / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(StoreError, match="link"):
            attempt.commit()


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../b", "A", "a b", "", "x" * 65, "é", "a//b", ".hidden", "a\n"]
)
def test_hostile_file_names_are_refused(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path / "store", cache=tmp_path / "cache")
    with store.attempt(KEY, identity={}, inputs={}) as attempt, pytest.raises(StoreError, match="valid name"):
        attempt.path(name)


def test_nan_in_meta_refuses_the_commit(store: Store) -> None:
    with (
        pytest.raises(StoreError, match=r"meta\.loss"),
        store.attempt(KEY, identity=IDENTITY, inputs={}) as attempt,
    ):
        attempt.commit({"loss": float("nan")})


def test_an_unknown_file_name_lists_the_known_ones(store: Store) -> None:
    with pytest.raises(StoreError, match=r"weights\.safetensors"):
        commit(store).path("wieghts")


def test_stores_artifacts_and_keys_survive_pickling(store: Store) -> None:
    artifact = commit(store)
    again = pickle.loads(pickle.dumps(store)).find(KEY)
    assert again is not None
    assert again.meta == artifact.meta
    assert pickle.loads(pickle.dumps(artifact)).path("weights.safetensors").read_bytes() == b"weights"


def test_damaged_files_are_named_put_aside_and_made_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    artifact = commit(store)
    damage(store, artifact.attempt, b"wEights")
    found = store.find(KEY)
    assert found is not None
    with pytest.raises(ArtifactDamaged, match="promised"):
        found.path("weights.safetensors")
    assert "event=quarantine" in caplog.text
    assert store.find(KEY) is None
    assert commit(store).path("weights.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("body", [b"", b"weight", b"weights ", b"wEights"])
def test_verify_reads_every_byte(store: Store, body: bytes) -> None:
    artifact = commit(store)
    assert verify(store) == []
    damage(store, artifact.attempt, body)
    (problem,) = verify(store)
    assert "weights.safetensors" in str(problem)


def test_verify_with_repair_makes_the_artifact_absent(store: Store) -> None:
    artifact = commit(store)
    damage(store, artifact.attempt, b"wEights")
    verify(store, repair=True)
    assert store.find(KEY) is None


def test_verify_reports_an_absent_input(store: Store) -> None:
    commit(store, inputs={"shards": Key("ingest", "0" * 64)})
    (problem,) = verify(store)
    assert "input shards ingest/000000000000 is absent" in str(problem)


def test_committed_local_files_are_read_only(tmp_path: Path) -> None:
    artifact = commit(open_store(tmp_path / "store", cache=tmp_path / "cache"))
    assert artifact.path("weights.safetensors").stat().st_mode & 0o222 == 0


def damage(store: Store, attempt: str, body: bytes) -> None:
    """Replace the stored bytes behind the protocol's back."""
    key = attempt_prefix(KEY, attempt) + "weights.safetensors"
    store.objects.put(key, body)
