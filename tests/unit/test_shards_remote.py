"""Inputs by URI: what is opened, what is refused, what is kept."""

import hashlib
import http.client
import io
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.config import ConfigError, DataError
from pipeline.shards.remote import absolute_uri, fetch, path_sha256
from pipeline.shards.remote_https import HOSTS_VARIABLE, download_https, public_address
from pipeline.store import Retry, StoreUnavailable
from tests.shard_cases import write_folder

CONTENT = b"content" * 1000
ONCE = Retry(budget_s=0)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class CountingClock:
    """A clock that never waits."""

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0


class Reply(http.client.HTTPConnection):
    """A connection that answers every request with fixed bytes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__("unused")
        self._raw = raw

    def connect(self) -> None:
        self.sock = self  # type: ignore[assignment]

    def sendall(self, data: object) -> None:
        assert data

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self._raw)

    def close(self) -> None:
        self.sock = None


def answer(body: bytes, *, declared: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body) if declared is None else declared, body)


def download(target: Path, raw: bytes, *, url: str = "https://zenodo.org/a.tar", max_bytes: int = 10**6) -> None:
    download_https(
        url, target, connect=lambda *_: Reply(raw), resolve=lambda *_: "1.1.1.1", max_bytes=max_bytes, retry=ONCE
    )


@pytest.mark.parametrize("uri", ["pipe:cat x", "http://host/x", "ftp://host/x", "gs://bucket/x", "", " ", "a\nb"])
def test_other_schemes_and_empty_uris_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="uri: "):
        absolute_uri(uri, "/data")


def test_relative_uris_stay_below_the_data_folder() -> None:
    assert absolute_uri("mnist/x", "/data") == "/data/mnist/x"
    assert absolute_uri("file:///other", "/data") == "/other"
    with pytest.raises(ConfigError, match="leaves the data folder"):
        absolute_uri("a/../../etc", "/data")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match="/nowhere/at/all: no such file"):
        fetch("/nowhere/at/all")


@pytest.mark.parametrize("uri", ["https://zenodo.org/a.tar", "s3://bucket/a.tar"])
def test_remote_files_need_a_digest(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs its sha256"):
        fetch(uri, cache=tmp_path)


def test_a_folder_digest_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "a", {"x/1": b"one", "y": b"two"})
    second = write_folder(tmp_path / "b", {"y": b"two", "x/1": b"one", ".hidden": b"ignored"})
    assert path_sha256(first) == path_sha256(second)
    renamed = write_folder(tmp_path / "c", {"x/2": b"one", "y": b"two"})
    assert path_sha256(first) != path_sha256(renamed)


def test_a_changed_file_changes_its_digest(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", {"x": b"one"})
    before = path_sha256(folder)
    (folder / "x").write_bytes(b"three")
    assert path_sha256(folder) != before


def test_https_bodies_arrive_whole(tmp_path: Path) -> None:
    download(tmp_path / "file", answer(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (answer(CONTENT, declared=10**9), "more than the limit"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2 * 10**6), "more than the limit"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://zenodo.org/b\r\n\r\n", "redirects"),
    ],
)
def test_bad_https_answers_are_errors(tmp_path: Path, raw: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        download(tmp_path / "file", raw)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (answer(CONTENT, declared=len(CONTENT) + 5), "bytes arrived|IncompleteRead"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "503 Busy"),
        (b"garbage", "BadStatusLine"),
    ],
)
def test_passing_https_failures_are_tried_again(tmp_path: Path, raw: bytes, sentence: str) -> None:
    replies = [raw, raw, answer(CONTENT)]
    retry = Retry(clock=CountingClock())

    def connect(*_: Any) -> Reply:
        return Reply(replies.pop(0))

    download_https("https://zenodo.org/a", tmp_path / "file", connect=connect, resolve=lambda *_: "1", retry=retry)
    assert (tmp_path / "file").read_bytes() == CONTENT
    with pytest.raises(StoreUnavailable, match=sentence):
        download(tmp_path / "file", raw)


@pytest.mark.parametrize("location", ["http://zenodo.org/b", "https://elsewhere.example/b", "file:///etc/passwd"])
def test_redirects_cannot_leave_https_and_the_list(tmp_path: Path, location: str) -> None:
    raw = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % location.encode()
    with pytest.raises(ConfigError):
        download(tmp_path / "file", raw)


def test_hosts_are_added_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://data.example/a"
    with pytest.raises(ConfigError, match=HOSTS_VARIABLE):
        download(tmp_path / "file", answer(CONTENT), url=url)
    monkeypatch.setenv(HOSTS_VARIABLE, "other.example, Data.Example")
    download(tmp_path / "file", answer(CONTENT), url=url)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "192.168.1.1"])
def test_private_addresses_are_refused(host: str) -> None:
    with pytest.raises(DataError, match="not a public address"):
        public_address(host, 443)


def test_an_s3_object_is_checked_and_kept(s3_url: str, tmp_path: Path) -> None:
    bucket, prefix = s3_url.removeprefix("s3://").split("/")
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key=f"{prefix}/a.bin", Body=CONTENT)
    path = fetch(f"{s3_url}/a.bin", digest=DIGEST, cache=tmp_path)
    assert path.read_bytes() == CONTENT
    client.delete_object(Bucket=bucket, Key=f"{prefix}/a.bin")
    assert fetch(f"{s3_url}/a.bin", digest=DIGEST, cache=tmp_path) == path
    client.put_object(Bucket=bucket, Key=f"{prefix}/a.bin", Body=b"other")
    with pytest.raises(DataError, match="sha256 is"):
        fetch(f"{s3_url}/a.bin", digest="0" * 64, cache=tmp_path)


def test_an_s3_prefix_becomes_a_folder_once(s3_url: str, tmp_path: Path) -> None:
    bucket, prefix = s3_url.removeprefix("s3://").split("/")
    client = boto3.client("s3")
    for name in ("x", "deep/y"):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode())
    folder = fetch(f"{s3_url}/", cache=tmp_path)
    assert path_sha256(folder) == path_sha256(write_folder(tmp_path / "same", {"x": b"x", "deep/y": b"deep/y"}))
    assert fetch(f"{s3_url}/", cache=tmp_path) == folder
    client.put_object(Bucket=bucket, Key=f"{prefix}/x", Body=b"changed")
    assert fetch(f"{s3_url}/", cache=tmp_path) != folder


@pytest.mark.parametrize("name", ["a/../../b", "/etc/x", "a\\b"])
def test_s3_names_cannot_climb(s3_url: str, tmp_path: Path, name: str) -> None:
    bucket, prefix = s3_url.removeprefix("s3://").split("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"x")
    with pytest.raises(DataError, match="climbs"):
        fetch(f"{s3_url}/", cache=tmp_path)


@pytest.mark.parametrize("tail", ["/missing/", "/missing"])
def test_nothing_in_s3_is_a_named_error(s3_url: str, tmp_path: Path, tail: str) -> None:
    with pytest.raises(DataError, match=r"no objects|no such object"):
        fetch(f"{s3_url}{tail}", digest=DIGEST, cache=tmp_path)
