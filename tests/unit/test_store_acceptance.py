"""The acceptance list: a good place passes all of it, and each fault is found by the point that is named after it."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store, StoreError, open_store, preflight
from pipeline.store.acceptance import acceptance, create_race, replace_race, verdict
from pipeline.store.backend import Changed, Exists
from pipeline.store.cache import Cache
from pipeline.store.retry import Retry
from tests.s3_server import _address
from tests.store_doubles import MemoryBackend

WRONG_KEY = "a wrong secret key is refused"
COMPLETE_IF_MATCH = "If-Match of CompleteMultipartUpload answers 412"  # moto does not know this condition


def test_a_directory_passes_and_nothing_is_left(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", cache=tmp_path / "cache")
    checks = list(acceptance(store))
    assert [str(check) for check in checks if not check.is_good] == []
    assert len(checks) == 4
    assert store.objects.scan("") == []
    assert verdict(checks).startswith("may be the store of a cluster")


@pytest.mark.slow
def test_moto_fails_where_it_is_known_to_and_nothing_is_left(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url, cache=tmp_path)
    checks = list(acceptance(store))
    assert len(checks) == 13
    assert [check.name for check in checks if not check.is_good] == [COMPLETE_IF_MATCH, WRONG_KEY]
    assert "drivers are safe" in verdict(checks)
    assert store.objects.scan("") == []
    assert store.objects.debris() == []


@pytest.fixture
def guarded_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server that checks signatures; the environment holds a key that it made."""
    log = tmp_path / "server.log"
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", program, "-H", "127.0.0.1", "-p", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"},
        )
    try:
        endpoint = _address(log, process)
        import boto3

        first = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        iam = boto3.client("iam", endpoint_url=endpoint, **first)
        iam.create_user(UserName="driver")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="driver", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="driver")["AccessKey"]
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3", endpoint_url=endpoint, **first).create_bucket(Bucket="guarded")
        yield "s3://guarded/runs"
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.slow
def test_a_server_that_checks_keys_refuses_a_wrong_one(guarded_s3: str, tmp_path: Path) -> None:
    checks = list(acceptance(open_store(guarded_s3, cache=tmp_path)))
    assert [check.name for check in checks if not check.is_good] == [COMPLETE_IF_MATCH]


class Careless(MemoryBackend):
    """Looks before it writes, as a server without conditions does; the gap is wide enough for everybody."""

    def __init__(self, *, looks: bool) -> None:
        super().__init__()
        self.looks = looks

    def put_if_absent(self, key: str, body: bytes) -> str:
        if self.looks and key in self.objects:
            raise Exists(key)
        time.sleep(0.01)
        return self._write(key, body)

    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        if self.looks and self.get(key).version != version:
            raise Changed(key)
        time.sleep(0.01)
        return self._write(key, body)


def store_over(backend: MemoryBackend, folder: Path) -> Store:
    return Store(backend, cache=Cache(folder), retry=Retry(budget_s=0.0))


def test_a_place_that_looks_and_then_writes_loses_the_races(tmp_path: Path) -> None:
    backend = Careless(looks=True)
    preflight(store_over(backend, tmp_path))  # one after another it answers well
    checks = list(acceptance(store_over(backend, tmp_path)))
    assert all("were told that they had won" in (check.problem or "") for check in checks)
    assert verdict(checks).startswith("may be used by one driver only (--single-driver)")


def test_a_winner_whose_bytes_are_not_there_is_found() -> None:
    class Liar(MemoryBackend):
        """Keeps the last writer's bytes and tells the first one that it won."""

        def put_if_absent(self, key: str, body: bytes) -> str:
            with self._lock:
                is_first = key not in self.objects
                self._write(key, body)
            if not is_first:
                raise Exists(key)
            return "1"

    assert "bytes are there and not the winner's" in (create_race(Liar(), "preflight/x", 64) or "")


def test_a_perfect_place_wins_every_race() -> None:
    assert create_race(MemoryBackend(), "preflight/x", 64) is None
    assert replace_race(MemoryBackend(), "preflight/x", 64) is None


def test_a_store_without_conditions_is_for_a_single_driver_that_says_so(tmp_path: Path) -> None:
    store = store_over(Careless(looks=False), tmp_path)
    with pytest.raises(StoreError, match=r"ignores IfNoneMatch.*--single-driver where nobody else writes"):
        preflight(store)
    preflight(store, single_driver=True)
    assert store.objects.scan("") == []
    with store.lease("grids/x", owner="me", ttl_s=5.0) as lease:
        lease.renew()


class Proxy:
    """Passes S3 requests on, with the headers that `spoil` leaves of them."""

    def __init__(self, endpoint: str, spoil: Callable[[str, str, dict[str, str]], dict[str, str]]) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self._body()
                headers = spoil(self.command, self.path, dict(self.headers.items()))
                for name in ("Transfer-Encoding", "Expect"):  # they are about this connection
                    headers.pop(name, None)
                request = urllib.request.Request(f"{endpoint}{self.path}", body or None, headers, method=self.command)
                try:
                    reply: Any = urllib.request.urlopen(request, timeout=30)
                except urllib.error.HTTPError as error:
                    reply = error
                content = reply.read()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                size = reply.headers["Content-Length"] if self.command == "HEAD" else len(content)
                self.send_header("Content-Length", str(size or 0))
                self.end_headers()
                self.wfile.write(content)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - names that the server looks for

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.mark.slow
def test_a_server_that_drops_the_conditions_fails_every_point_about_them(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_conditions(method: str, path: str, headers: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in headers.items() if not name.lower().startswith("if-")}

    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"], without_conditions)
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        checks = list(acceptance(open_store(s3_url, cache=tmp_path)))
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
    failed = [check.name for check in checks if not check.is_good and check.guards_drivers]
    assert len(failed) == 6, [str(check) for check in checks]
    assert sum("CompleteMultipartUpload" in check.name for check in checks if not check.is_good) == 2
    assert verdict(checks).startswith("may be used by one driver only")
