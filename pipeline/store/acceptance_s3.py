"""What an S3 server has to answer, asked with requests of its own: conditions, checksums, chunks, keys, listings."""

# pyright: basic
# botocore makes its classes at run time and has no types

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pipeline.store.errors import StoreError
from pipeline.store.s3 import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, S3Backend

PRECONDITION_FAILED = 412
CHUNKED_BYTES = 12 << 20
PART_BYTES = 5 << 20  # the smallest part S3 accepts, except for the last one
PROBE = b"probe"


def s3_checks(backend: S3Backend, folder: str) -> Iterator[tuple[str, bool, Callable[[], str | None]]]:
    """(name, whether two drivers depend on it, the check) of every point beside the races."""
    probes = Probes(backend, folder)
    yield (
        "If-None-Match on an object that exists answers 412",
        True,
        partial(probes.tried, probes.refuses_to_create_again),
    )
    yield "If-Match of an old version answers 412", True, partial(probes.tried, probes.refuses_an_old_version)
    yield (
        "If-None-Match of CompleteMultipartUpload answers 412",
        False,
        partial(probes.tried, probes.refuses_to_complete_again),
    )
    yield (
        "If-Match of CompleteMultipartUpload answers 412",
        False,
        partial(probes.tried, probes.refuses_to_complete_over_an_old_version),
    )
    yield (
        "an upload with botocore's default checksum is stored as it is",
        False,
        partial(probes.tried, probes.keeps_checksummed_bytes),
    )
    yield (
        "an upload of pyarrow (aws-chunked, 12 MiB) is stored as it is",
        False,
        partial(probes.tried, probes.keeps_chunked_bytes),
    )
    yield "a listing is complete and pages are honoured", False, partial(probes.tried, probes.lists_in_pages)
    yield "a wrong secret key is refused", False, partial(probes.tried, probes.refuses_a_wrong_key)
    yield "the bucket keeps no old versions", False, partial(probes.tried, probes.has_no_versions)


class Probes:
    """The checks; each returns what is wrong, or None."""

    def __init__(self, backend: S3Backend, folder: str) -> None:
        self._backend = backend
        self._folder = folder
        self._bucket = backend.bucket

    def tried(self, check: Callable[[], str | None]) -> str | None:
        """The check with botocore's errors in the terms of the store."""
        from botocore.exceptions import BotoCoreError

        try:
            with self._backend._translated():
                return check()
        except BotoCoreError as error:  # a checksum of the server's that does not fit its own bytes, for example
            return f"{type(error).__name__}: {error}"

    def refuses_to_create_again(self) -> str | None:
        key = self._key("create")
        self._client().put_object(Bucket=self._bucket, Key=key, Body=PROBE, IfNoneMatch="*")
        return self._unless_refused(
            lambda client: client.put_object(Bucket=self._bucket, Key=key, Body=b"second", IfNoneMatch="*"), key
        )

    def refuses_an_old_version(self) -> str | None:
        key = self._key("replace")
        client = self._client()
        old = client.put_object(Bucket=self._bucket, Key=key, Body=b"first")["ETag"]
        client.put_object(Bucket=self._bucket, Key=key, Body=PROBE, IfMatch=old)
        return self._unless_refused(
            lambda client: client.put_object(Bucket=self._bucket, Key=key, Body=b"third", IfMatch=old), key
        )

    def refuses_to_complete_again(self) -> str | None:
        return self._completes("complete-create", IfNoneMatch="*")

    def refuses_to_complete_over_an_old_version(self) -> str | None:
        client = self._client()
        old = client.put_object(Bucket=self._bucket, Key=self._key("complete-replace"), Body=b"first")["ETag"]
        return self._completes("complete-replace", IfMatch=old)

    def _completes(self, name: str, **condition: str) -> str | None:
        """A multipart upload with a condition that does not hold when it is completed."""
        key, client = self._key(name), self._client()
        upload = client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        try:
            part = client.upload_part(Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"late")
            client.put_object(Bucket=self._bucket, Key=key, Body=PROBE)
            parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
            return self._unless_refused(
                lambda client: client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload=parts, **condition
                ),
                key,
            )
        finally:
            self._abort(client, key, upload)

    def _abort(self, client: Any, key: str, upload: str) -> None:
        from botocore.exceptions import ClientError

        try:
            client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except ClientError:  # completed, or gone
            return

    def keeps_checksummed_bytes(self) -> str | None:
        body, key = secrets.token_bytes(PART_BYTES + 3), self._key("checksum")
        client = self._client(checksums="when_supported")
        client.put_object(Bucket=self._bucket, Key=key, Body=body)
        return _difference(body, client.get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def keeps_chunked_bytes(self) -> str | None:
        from pyarrow import fs

        body, key = secrets.token_bytes(CHUNKED_BYTES), self._key("chunked")
        try:
            with self._pyarrow().open_output_stream(f"{self._bucket}/{key}") as stream:
                stream.write(body)
        except OSError as error:
            return f"pyarrow {fs.S3FileSystem.__name__}: {' '.join(str(error).split())[:200]}"
        return _difference(body, self._client().get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def _pyarrow(self) -> Any:
        from pyarrow import fs

        credentials = self._credentials()
        scheme, _, host = (self._backend.endpoint or "").rpartition("://")
        place = {"endpoint_override": host, "scheme": scheme or "http"} if host else {}
        return fs.S3FileSystem(
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.token,
            region=self._region(),
            background_writes=False,
            **place,
        )

    def lists_in_pages(self) -> str | None:
        client, prefix = self._client(), self._key("list/")
        names = [f"{prefix}{index}" for index in range(5)]
        for name in names:
            client.put_object(Bucket=self._bucket, Key=name, Body=PROBE)
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=2, **token)
            keys = [item["Key"] for item in page.get("Contents", [])]
            if len(keys) > 2:
                return f"MaxKeys = 2 gave {len(keys)} keys"
            found += keys
            if not page.get("IsTruncated"):
                return None if found == names else f"{len(found)} of {len(names)} keys were listed, or out of order"
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def refuses_a_wrong_key(self) -> str | None:
        from botocore.exceptions import ClientError

        credentials = self._credentials()
        stranger = self._client(
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=secrets.token_urlsafe(30),
            aws_session_token=credentials.token,
        )
        try:
            stranger.list_objects_v2(Bucket=self._bucket, Prefix=self._key(""), MaxKeys=1)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return None if status in (400, 401, 403) else f"answered {status}"
        return "a listing was answered: everybody who reaches the server can read and write"

    def has_no_versions(self) -> str | None:
        from botocore.exceptions import ClientError

        try:
            state = self._client().get_bucket_versioning(Bucket=self._bucket).get("Status")
        except ClientError:  # a server that has no versions need not know the question
            return None
        return None if state is None else f"versioning is {state}; what gc deletes would stay and cost"

    def _unless_refused(self, ask: Callable[[Any], Any], key: str) -> str | None:
        from botocore.exceptions import ClientError

        try:
            ask(self._client())
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status != PRECONDITION_FAILED:
                return f"answered {status} {error.response.get('Error', {}).get('Code', '')}".rstrip()
        else:
            return "the condition was ignored"
        found = self._client().get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return None if found == PROBE else "answered 412, and wrote all the same"

    def _key(self, name: str) -> str:
        return self._backend._name(f"{self._folder}/{name}")

    def _credentials(self) -> Any:
        found = self._session().get_credentials()
        if found is None:
            raise StoreError("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or give this host a role")
        return found.get_frozen_credentials()

    def _session(self, **credentials: Any) -> Any:
        import boto3

        return boto3.Session(**credentials)

    def _region(self) -> str:
        return self._session().region_name or os.environ.get("AWS_REGION") or "us-east-1"

    def _client(self, *, checksums: str = "when_required", **credentials: Any) -> Any:
        from botocore.config import Config

        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            s3={"addressing_style": "path" if self._backend.endpoint else "auto"},
        )
        return self._session(**credentials).client(
            "s3", endpoint_url=self._backend.endpoint, config=config, region_name=self._region()
        )


def _difference(meant: bytes, found: bytes) -> str | None:
    if meant == found:
        return None
    digests = [hashlib.sha256(body).hexdigest()[:12] for body in (meant, found)]
    return f"sent {len(meant)} bytes (sha256 {digests[0]}), found {len(found)} ({digests[1]})"
