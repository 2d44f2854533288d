"""A disk or quota that fills up while an artifact is written: a clear error with path and bytes, a clean store."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.store import Key, ResourceError, open_store, verify

KEY = Key("train", "a" * 64)
PROGRAM = """
import resource, sys
from pathlib import Path
from pipeline.store import Key, ResourceError, open_store
store = open_store(sys.argv[1], cache=Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    with store.attempt(Key("train", "a" * 64), identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(bytes(100_000))
        attempt.commit()
except ResourceError as error:
    sys.stdout.write(str(error))
"""


def test_a_real_file_size_limit_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    command = [sys.executable, "-c", PROGRAM, str(root), str(tmp_path / "cache")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "File too large" in result.stdout
    assert str(root) in result.stdout
    assert "bytes free" in result.stdout
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_at_any_fsync_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    at = 1
    while no_space(tmp_path / str(at), monkeypatch, code=code, at=at):
        at += 1
    assert at > 10


def no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, code: int, at: int) -> bool:
    """Commit while the n-th fsync fails and check the store; whether there were that many."""
    calls = [0]
    real = os.fsync

    def failing(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    store = open_store(tmp_path / "store", cache=tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", failing)
    with suppress(ResourceError), store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(b"weights")
        attempt.commit()
    monkeypatch.undo()
    found = store.find(KEY)
    if found is None:
        assert store.objects.scan("") == []
    else:
        assert found.read("weights.bin") == b"weights"
    assert verify(store) == []
    assert [stat for stat in store.objects.debris() if not stat.key.endswith("/")] == []
    return calls[0] >= at


def test_a_disk_that_fills_in_the_users_own_write_names_the_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", cache=tmp_path / "cache")

    def write() -> None:
        with store.attempt(KEY, identity={}, inputs={}) as attempt:
            path = attempt.path("weights.bin")
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with pytest.raises(ResourceError, match=r"weights\.bin: No space left.*bytes free"):
        write()
    assert store.objects.scan("") == []
