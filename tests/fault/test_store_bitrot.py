"""Any byte of a stored artifact or state flipped or cut: the same result or a named error, never a different result."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import ArtifactDamaged, Key, Store, fingerprint, open_store, verify

KEY = Key("train", fingerprint("train", 1, {"lr": 1e-4}, {}))
CONTENT = {"weights.bin": bytes(range(200)), "curve.bin": b"0.5\n0.25\n"}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """One store for all examples; each puts back what it damaged."""
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(Path(directory) / "store", cache=Path(directory) / "cache")
        with store.attempt(KEY, identity={"lr": 1e-4}, inputs={}) as attempt:
            for name, body in CONTENT.items():
                attempt.path(name).write_bytes(body)
            attempt.commit({"loss": 0.5})
        store.state("train", KEY.fingerprint).save(7, dict(CONTENT), {"epoch": 1})
        yield Path(directory)


def read_artifact(store: Store) -> object:
    found = store.find(KEY)
    return None if found is None else ({name: found.read(name) for name in found.files}, found.meta, found.identity)


def read_state(store: Store) -> object:
    state = store.state("train", KEY.fingerprint).latest()
    return None if state is None else ({name: state.read(name) for name in state.files}, state.meta, state.step)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_is_the_same_result_or_a_named_error(root: Path, data: st.DataObject) -> None:
    store = open_store(root / "store", cache=root / "cache")
    expected = {"artifacts": (CONTENT, {"loss": 0.5}, {"lr": 1e-4}), "state": (CONTENT, {"epoch": 1}, 7)}
    path = data.draw(st.sampled_from(sorted(path for path in (root / "store").rglob("*.*") if path.is_file())))
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1))
    is_cut = data.draw(st.booleans())
    flipped = bytes([before[position] ^ 1 << data.draw(st.integers(0, 7))])
    after = before[:position] if is_cut else before[:position] + flipped + before[position + 1 :]
    path.chmod(0o644)
    path.write_bytes(after)
    kind = path.relative_to(root / "store").parts[0]
    try:
        if kind == "artifacts":
            assert verify(store) != []
        result = read_artifact(store) if kind == "artifacts" else read_state(store)
        assert result in (None, expected[kind])
    except ArtifactDamaged:
        pass
    finally:
        restore(root / "store", path, before)
    assert read_artifact(store) == expected["artifacts"]
    assert read_state(store) == expected["state"]


def restore(store: Path, damaged: Path, before: bytes) -> None:
    """Undo the damage and the quarantine that followed it."""
    for quarantined in (store / "quarantine").rglob("*.json-*"):
        manifest = store / quarantined.relative_to(store / "quarantine").with_suffix(".json")
        manifest.write_bytes(quarantined.read_bytes())
        quarantined.unlink()
    damaged.write_bytes(before)
