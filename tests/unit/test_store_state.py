"""Resumable state: the newest complete one is resumed, damaged ones are skipped and named."""

from pathlib import Path

import pytest

from pipeline.store import Store, StoreError, open_store
from pipeline.store.state import StateStore

DIGITS = "a" * 64


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Store:
    return open_store(store_url, cache=tmp_path / "cache")


@pytest.fixture
def states(store: Store) -> StateStore:
    return store.state("train", DIGITS)


def save(states: StateStore, step: int) -> None:
    states.save(step, {"weights.bin": b"weights %d" % step, "ema.bin": b"ema %d" % step}, {"loss": float(step)})


def damage(store: Store, step: int, name: str, body: bytes | None) -> None:
    (key,) = [stat.key for stat in store.objects.scan(f"state/train/{DIGITS}/{step:012d}-") if stat.key.endswith(name)]
    if body is None:
        store.objects.delete(key)
    else:
        store.objects.put(key, body)


def test_nothing_saved_is_none(states: StateStore) -> None:
    assert states.latest() is None


def test_the_largest_step_is_resumed(states: StateStore) -> None:
    for step in (9, 10, 100):
        save(states, step)
    state = states.latest()
    assert state is not None
    assert (state.step, state.meta, state.skipped) == (100, {"loss": 100.0}, ())
    assert state.read("weights.bin") == b"weights 100"
    assert state.path("ema.bin").read_bytes() == b"ema 100"


def test_files_are_copied_from_paths(states: StateStore, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.write_bytes(b"before")
    states.save(1, {"weights.bin": source})
    source.write_bytes(b"after!")
    state = states.latest()
    assert state is not None
    assert state.read("weights.bin") == b"before"


@pytest.mark.parametrize("name", ["weights.bin", "ema.bin", "manifest.json"])
@pytest.mark.parametrize("body", [b"weights 3", b"", b"x" * 9, None])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(
    store: Store, states: StateStore, name: str, body: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    save(states, 1)
    save(states, 2)
    damage(store, 2, name, body)
    state = states.latest()
    assert state is not None
    assert (state.step, state.read("weights.bin")) == (1, b"weights 1")
    if not (name == "manifest.json" and body is None):  # without its manifest a state was never complete
        assert "state of step 2 is damaged" in state.skipped[0]
        assert "event=state_fallback" in caplog.text


def test_when_all_are_damaged_there_is_none(store: Store, states: StateStore) -> None:
    save(states, 1)
    damage(store, 1, "ema.bin", b"EMA 1")
    assert states.latest() is None


def test_after_a_fallback_new_states_win_over_the_damaged_ones(store: Store, states: StateStore) -> None:
    for step in (10, 20):
        save(states, step)
    damage(store, 20, "ema.bin", b"ema 00")
    states.latest()
    save(states, 15)
    state = states.latest()
    assert state is not None
    assert state.step == 15


def test_two_states_are_kept(store: Store, states: StateStore) -> None:
    for step in range(5):
        save(states, step)
    kept = {stat.key.split("/")[3][:12] for stat in store.objects.scan(f"state/train/{DIGITS}/")}
    assert kept == {"000000000003", "000000000004"}


def test_clear_leaves_nothing(store: Store, states: StateStore) -> None:
    save(states, 1)
    states.clear()
    assert states.latest() is None
    assert store.objects.scan("") == []


def test_a_negative_step_is_refused(states: StateStore) -> None:
    with pytest.raises(StoreError, match="step >= 0"):
        states.save(-1, {})


def test_an_unknown_file_is_refused(states: StateStore) -> None:
    save(states, 1)
    state = states.latest()
    assert state is not None
    with pytest.raises(StoreError, match="no file"):
        state.path("optimizer.bin")
