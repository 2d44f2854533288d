"""Objects of an S3 prefix into a cache folder; a listing that did not change is not fetched again."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from pipeline.config import ConfigError, DataError
from pipeline.shards.tar import is_safe_name
from pipeline.store import Retry, StoreError
from pipeline.store.backend import Missing
from pipeline.store.s3_errors import translated

MAX_OBJECTS = 100_000
MAX_TOTAL_BYTES = 2**40

Answer = TypeVar("Answer")


def fetch_s3(uri: str, cache: Path) -> Path:
    """The object `s3://bucket/key`, or all objects below `s3://bucket/prefix/`, as a local file or folder.

    Args:
        uri: ends in a slash for a prefix; the endpoint comes from `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`.
        cache: folder that receives the content.

    Raises:
        DataError: nothing there, no access, or odd object names.
        StoreUnavailable: not reachable within the retry budget.
        ConfigError: the uri names no bucket or no key.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise ConfigError(f"uri: {uri} names no object; write s3://bucket/key or s3://bucket/prefix/")
    client = boto3.client("s3", config=Config(retries={"max_attempts": 0}, connect_timeout=10, read_timeout=60))
    if not key.endswith("/"):
        target = cache / "object"
        _download(client, bucket, key, target, uri)
        return target
    listing = _listing(client, bucket, key, uri)
    lines = "".join(f"{name}\0{size}\0{etag}\n" for name, size, etag in listing)
    folder = cache / "prefixes" / hashlib.sha256(f"{uri}\n{lines}".encode()).hexdigest()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        content = Path(scratch) / "content"
        for name, size, _ in listing:
            target = content / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _download(client, bucket, key + name, target, uri)
            if target.stat().st_size != size:
                raise DataError(f"{uri}{name}: {target.stat().st_size} of {size} bytes arrived; try again")
        try:
            os.rename(content, folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _listing(client: Any, bucket: str, prefix: str, uri: str) -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []
    token: dict[str, str] = {}
    while True:
        page = _ask(partial(client.list_objects_v2, Bucket=bucket, Prefix=prefix, **token), uri)
        for item in page.get("Contents", []):
            name = item["Key"][len(prefix) :]
            if not name or name.endswith("/") or name.rsplit("/", 1)[-1].startswith("."):
                continue
            if not is_safe_name(name):
                raise DataError(f"{uri}: object name {ascii(name)[:120]} climbs or is not printable")
            found.append((name, int(item["Size"]), str(item["ETag"])))
        if len(found) > MAX_OBJECTS or sum(size for _, size, _ in found) > MAX_TOTAL_BYTES:
            raise DataError(
                f"{uri}: more than {MAX_OBJECTS} objects or {MAX_TOTAL_BYTES} bytes; pack them into archives"
            )
        if not page.get("IsTruncated"):
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    if not found:
        raise DataError(f"{uri}: no objects below this prefix")
    return sorted(found)


def _download(client: Any, bucket: str, key: str, target: Path, uri: str) -> None:
    def attempt() -> None:
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        with target.open("wb") as file:
            for chunk in body.iter_chunks(1 << 20):
                file.write(chunk)

    _ask(attempt, uri)


def _ask(operation: Callable[[], Answer], uri: str) -> Answer:
    """The answer of S3; what passes is retried by the store's one retry layer."""

    def once() -> Answer:
        with translated(uri):
            return operation()

    try:
        return Retry()(uri, once)
    except Missing:
        raise DataError(f"{uri}: S3 has no such object; check the name") from None
    except StoreError as error:
        raise DataError(f"{uri}: {error}") from None
