"""Preflight: an unusable store is one clear sentence, quickly."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.store import Store, StoreError, open_store, preflight
from pipeline.store.cache import Cache
from tests.store_doubles import Faulty, MemoryBackend


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so the test steps down for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_usable_store_passes_and_nothing_is_left(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url, cache=tmp_path / "cache")
    preflight(store)
    assert store.objects.scan("") == []


def test_a_read_only_directory_is_named() -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        root = Path(parent) / "store"
        root.mkdir(mode=0o555)
        with unprivileged(), pytest.raises(StoreError, match=rf"{root}.*Permission denied.*write access"):
            preflight(open_store(root, cache=Path(parent)))


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(StoreError, match="Not a directory"):
        preflight(open_store(tmp_path / "store", cache=tmp_path / "cache"))


def test_a_refusing_s3_is_one_sentence_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"does not answer.*127\.0\.0\.1:9.*AWS_ENDPOINT_URL") as refusal:
        preflight(open_store("s3://bucket/prefix", cache=tmp_path))
    assert time.monotonic() - start < 15.0
    assert "\n" not in str(refusal.value)


def test_a_missing_bucket_is_named(s3_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"bucket of s3://no-such-bucket.*create it"):
        preflight(open_store("s3://no-such-bucket", cache=tmp_path))


def test_missing_credentials_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:10")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="no credentials"):
        preflight(open_store("s3://bucket", cache=tmp_path))


class Overwriting(MemoryBackend):
    """Ignores IfNoneMatch, as some S3 servers do."""

    def put_if_absent(self, key: str, body: bytes) -> str:
        self.put(key, body)
        return self.get(key).version


class Replacing(MemoryBackend):
    """Ignores IfMatch."""

    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        self.put(key, body)
        return self.get(key).version


@pytest.mark.parametrize(("backend", "header"), [(Overwriting(), "IfNoneMatch"), (Replacing(), "IfMatch")])
def test_a_server_without_conditional_puts_is_refused(backend: MemoryBackend, header: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"ignores {header}.*conditional puts"):
        preflight(Store(backend, cache=Cache(tmp_path)))


def test_a_full_disk_is_a_request_error(tmp_path: Path) -> None:
    backend = Faulty(MemoryBackend(), {("put_if_absent", 1): "full"})
    with pytest.raises(StoreError, match="No space left"):
        preflight(Store(backend, cache=Cache(tmp_path)))


def test_too_little_free_space_is_named_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"bytes free and {1 << 60} are needed"):
        preflight(open_store(tmp_path / "store", cache=tmp_path), min_free_bytes=1 << 60)


@pytest.mark.parametrize(
    "url", ["http://host/x", "s3://", "s3://A_b/x", "s3://bucket/../x", "s3://bucket/a b", "pipe:cat x://y"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(StoreError):
        open_store(url)
