"""An S3 prefix as a store; needs conditional puts (IfNoneMatch and IfMatch)."""

# pyright: basic
# botocore makes its classes at run time and has no types

import base64
import email.utils
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.store.backend import Backend, Changed, Exists, Missing, Object, Stat, Transient
from pipeline.store.digest import CHUNK_BYTES
from pipeline.store.errors import StoreError

Result = TypeVar("Result")
MULTIPART_BYTES = 64 << 20
PAGE_KEYS = 1000
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PREFIX_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")


class S3Backend(Backend):
    """Objects are s3://bucket/prefix/key.

    The endpoint is AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL of this process, else the one seen where the backend was
    made; credentials come from the environment or the host's role and are never kept here.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        if not BUCKET.fullmatch(bucket):
            raise StoreError(f"{bucket!r:.80} is not a bucket name")
        if prefix and not all(PREFIX_PART.fullmatch(part) for part in prefix.split("/")):
            raise StoreError(f"{prefix!r:.80} is not a prefix: use parts of letters, digits and . _ = - joined by /")
        self.bucket = bucket
        self.prefix = prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.endpoint = endpoint_of_environment()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["bucket"], state["prefix"])
        self.endpoint = self.endpoint or state["endpoint"]

    def put_if_absent(self, key: str, body: bytes) -> str:
        try:
            return self._put(key, body, IfNoneMatch="*")
        except Changed as error:
            raise Exists(key) from error

    def put_if_match(self, key: str, body: bytes, *, version: str) -> str:
        return self._put(key, body, IfMatch=version)

    def put(self, key: str, body: bytes) -> None:
        self._put(key, body)

    def _put(self, key: str, body: bytes, **condition: str) -> str:
        checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
        answer = self._ask(
            lambda client: client.put_object(
                Bucket=self.bucket, Key=self._name(key), Body=body, ChecksumSHA256=checksum, **condition
            )
        )
        return answer["ETag"]

    def put_file(self, key: str, source: Path, *, sha256: str) -> None:
        if source.stat().st_size <= MULTIPART_BYTES:
            checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
            with source.open("rb") as file:
                self._ask(
                    lambda client: client.put_object(
                        Bucket=self.bucket, Key=self._name(key), Body=file, ChecksumSHA256=checksum
                    )
                )
            return
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES)
        extra = {"ChecksumAlgorithm": "SHA256"}
        with source.open("rb") as file:
            self._ask(
                lambda client: client.upload_fileobj(file, self.bucket, self._name(key), ExtraArgs=extra, Config=config)
            )

    def get(self, key: str) -> Object:
        def ask(client: Any) -> Object:
            answer = client.get_object(Bucket=self.bucket, Key=self._name(key))
            body = answer["Body"].read()
            if len(body) != answer["ContentLength"]:
                raise Transient(f"{key}: {len(body)} of {answer['ContentLength']} bytes")
            return Object(body, answer["ETag"], answer["LastModified"].timestamp())

        return self._ask(ask)

    def read(self, key: str) -> Iterator[bytes]:
        answer = self._ask(lambda client: client.get_object(Bucket=self.bucket, Key=self._name(key)))
        size = 0
        with self._translated(), answer["Body"] as stream:
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
        if size != answer["ContentLength"]:
            raise Transient(f"{key}: {size} of {answer['ContentLength']} bytes")

    def head(self, key: str) -> Stat:
        answer = self._ask(
            lambda client: client.head_object(Bucket=self.bucket, Key=self._name(key), ChecksumMode="ENABLED")
        )
        return Stat(key, answer["ContentLength"], answer["LastModified"].timestamp(), whole_sha256(answer))

    def scan(self, prefix: str) -> Iterator[Stat]:
        token: dict[str, str] = {}
        while True:
            request = {"Bucket": self.bucket, "Prefix": self._name(prefix), "MaxKeys": PAGE_KEYS, **token}
            answer = self._ask(lambda client, request=request: client.list_objects_v2(**request))
            for item in answer.get("Contents", []):
                yield Stat(self._key(item["Key"]), item["Size"], item["LastModified"].timestamp())
            if not answer.get("IsTruncated"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, key: str, *, version: str | None = None) -> None:
        condition = {} if version is None else {"IfMatch": version}
        try:
            self._ask(lambda client: client.delete_object(Bucket=self.bucket, Key=self._name(key), **condition))
        except Missing:
            return

    def now(self) -> float:
        from botocore.exceptions import ClientError

        def ask(client: Any) -> str:
            try:
                answer = client.head_object(Bucket=self.bucket, Key=self._name("clock"))
            except ClientError as error:  # 404 is the usual answer, and it carries the date as well
                answer = error.response
                if int(answer["ResponseMetadata"]["HTTPStatusCode"]) >= 500:
                    raise
            return answer["ResponseMetadata"]["HTTPHeaders"]["date"]

        return email.utils.parsedate_to_datetime(self._ask(ask)).timestamp()

    def debris(self) -> Iterator[Stat]:
        token: dict[str, str] = {}
        while True:
            request = {"Bucket": self.bucket, "Prefix": self._name(""), **token}
            answer = self._ask(lambda client, request=request: client.list_multipart_uploads(**request))
            for item in answer.get("Uploads", []):
                yield Stat(f"{self._key(item['Key'])}?{item['UploadId']}", 0, item["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            token = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def delete_debris(self, item: Stat) -> None:
        key, _, upload = item.key.partition("?")
        try:
            self._ask(
                lambda client: client.abort_multipart_upload(Bucket=self.bucket, Key=self._name(key), UploadId=upload)
            )
        except Missing:
            return

    def _name(self, key: str) -> str:
        assert ".." not in key.split("/"), key
        return f"{self.prefix}/{key}" if self.prefix else key

    def _key(self, name: str) -> str:
        return name[len(self.prefix) + 1 :] if self.prefix else name

    def _translated(self) -> Any:
        from pipeline.store.s3_errors import translated

        return translated(f"{self.url} at {self.endpoint}" if self.endpoint else self.url)

    def _ask(self, operation: Callable[[Any], Result]) -> Result:
        """One request in the terms of the store."""
        from pipeline.store.s3_errors import Expired

        try:
            with self._translated():
                return operation(client_of(self.endpoint, os.getpid()))
        except Expired:
            client_of.cache_clear()
            raise


@lru_cache(maxsize=8)
def client_of(endpoint: str | None, process: int) -> Any:
    """The client of a process for an address; botocore's own retries are off, so that budgets add up once."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=16,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.Session().client("s3", endpoint_url=endpoint, config=config)


def endpoint_of_environment() -> str | None:
    """The address of an S3-compatible server, or None for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def whole_sha256(answer: dict[str, Any]) -> str | None:
    """The hex digest the server computed over the whole object; None for multipart uploads and older servers."""
    checksum = answer.get("ChecksumSHA256")
    if not checksum or "-" in checksum or "-" in answer.get("ETag", "-"):
        return None
    return base64.b64decode(checksum).hex()
