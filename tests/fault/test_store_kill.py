"""kill -9 at random moments of a real writer: what is visible is whole, and repeating the work completes it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import Retry, Store, collect, open_store, verify
from pipeline.store.cache import Cache
from tests.store_doubles import FakeClock, Wrapped

SEED = 20240611
MEMORY = "/dev/shm"


def kill(url: str, tmp_path: Path, *, num_kills: int, seed: int) -> None:
    command = [sys.executable, "-m", "tests.store_writer", url, str(tmp_path / "cache"), str(seed), str(num_kills)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"seed {seed}: {result.stderr[-4000:]}"
    rounds = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rounds) == num_kills
    assert [each["problems"] for each in rounds if each["problems"]] == [], f"seed {seed}"
    assert sum(each["is_killed"] for each in rounds) >= max(1, num_kills // 10), "too few writers died at work"
    store = open_store(url, cache=tmp_path / "cache")
    assert verify(store) == []
    assert_only_results_remain(store)


def assert_only_results_remain(store: Store) -> None:
    """After a collection eight days later nothing of the dead is left."""
    later = Wrapped(store.objects.backend, lambda operation, key, do: do(), offset_s=8 * 86400.0)
    keys = list(store.keys())
    collect(Store(later, cache=Cache(store.cache.root), retry=Retry(clock=FakeClock())), keys, dry_run=False)
    assert len(store.objects.scan("")) == 3 * len(keys)
    assert store.objects.debris() == []
    assert verify(store) == []
    with store.cache.scratch():
        assert len(list((store.cache.root / "scratch").iterdir())) == 2  # its own directory and lock


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a kill loses nothing that was written, so fsync may be free."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


def test_a_local_writer_survives_twenty_kills(fast_path: Path) -> None:
    kill(str(fast_path / "store"), fast_path, num_kills=20, seed=SEED)


def test_a_remote_writer_survives_three_kills(s3_url: str, tmp_path: Path) -> None:
    kill(s3_url, tmp_path, num_kills=3, seed=SEED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 3))
def test_a_local_writer_survives_a_hundred_kills(fast_path: Path, seed: int) -> None:
    kill(str(fast_path / "store"), fast_path, num_kills=100, seed=seed)


@pytest.mark.slow
def test_a_remote_writer_survives_forty_kills(s3_url: str, tmp_path: Path) -> None:
    kill(s3_url, tmp_path, num_kills=40, seed=SEED + 1)
