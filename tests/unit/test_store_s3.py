"""S3's answers in the terms of the store, and what only the S3 backend does."""

import pickle
from pathlib import Path

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from pipeline.store import Key, Retry, Store, StoreError, open_store
from pipeline.store import s3 as s3_module
from pipeline.store.backend import Changed, Conflict, Missing, Transient
from pipeline.store.cache import Cache
from pipeline.store.s3_errors import Expired, translated, translation
from tests.store_doubles import FakeClock

KEY = Key("train", "a" * 64)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (412, "PreconditionFailed", Changed),
        (409, "ConditionalRequestConflict", Conflict),
        (404, "NoSuchKey", Missing),
        (404, "404", Missing),
        (404, "NoSuchBucket", StoreError),
        (403, "AccessDenied", StoreError),
        (403, "InvalidAccessKeyId", StoreError),
        (403, "RequestTimeTooSkewed", Transient),
        (400, "ExpiredToken", Expired),
        (400, "RequestTimeout", Transient),
        (429, "TooManyRequests", Transient),
        (500, "InternalError", Transient),
        (501, "NotImplemented", StoreError),
        (503, "SlowDown", Transient),
    ],
)
def test_an_error_answer_has_one_meaning(status: int, code: str, kind: type[Exception]) -> None:
    answer = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert type(translation(ClientError(answer, "PutObject"), "s3://bucket")) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), Transient),
        (ReadTimeoutError(endpoint_url="http://x"), Transient),
        (ConnectionResetError(), Transient),
        (NoCredentialsError(), StoreError),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_a_lost_connection_is_transient_and_missing_credentials_are_not(error, kind: type[Exception]) -> None:
    with pytest.raises(kind), translated("s3://bucket"):
        raise error


def test_the_pickle_holds_the_endpoint_and_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    store = open_store(s3_url)
    assert store.find(KEY) is None
    endpoint = store.objects.backend.endpoint
    data = pickle.dumps(store)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(data).objects.backend.endpoint == endpoint
    assert b"geheim" not in data


def test_a_workers_own_endpoint_wins_over_the_pickled_one(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(open_store(s3_url))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://inside:9000")
    assert pickle.loads(data).objects.backend.endpoint == "http://inside:9000"


def test_a_large_file_goes_in_parts_and_is_read_back(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "MULTIPART_BYTES", 5 << 20)
    body = bytes(range(256)) * (6 << 12) + b"end"
    store = open_store(s3_url, cache=tmp_path)
    with store.attempt(KEY, identity={}, inputs={}) as attempt:
        attempt.path("weights.bin").write_bytes(body)
        artifact = attempt.commit()
    assert artifact.read("weights.bin") == body
    assert store.objects.debris() == []


def test_long_listings_are_complete(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PAGE_KEYS", 3)
    documents = open_store(s3_url, cache=tmp_path).documents("grids/many")
    names = [f"status/{number:04d}" for number in range(10)]
    for name in names:
        documents.put(name, b"")
    assert documents.list() == names


@pytest.mark.parametrize("status", [500, 503])
def test_a_real_client_leaves_the_retries_to_the_one_layer(s3_url: str, tmp_path: Path, status: int) -> None:
    clock = FakeClock()
    store = Store(open_store(s3_url).objects.backend, cache=Cache(tmp_path), retry=Retry(clock=clock))
    client = s3_module.client_of(store.objects.backend.endpoint, s3_module.os.getpid())
    answers = [status] * 3

    def refuse(request, **_: object) -> AWSResponse | None:
        return AWSResponse(request.url, answers.pop(), {}, Body()) if answers else None

    client.meta.events.register("before-send.s3.PutObject", refuse)
    try:
        store.documents("grids/quick").put("plan.json", b"1")
    finally:
        client.meta.events.unregister("before-send.s3.PutObject", refuse)
    assert len(clock.waits) == 3
    assert store.documents("grids/quick").get("plan.json") == b"1"


class Body:
    """An empty HTTP body."""

    def stream(self, **_: object) -> list[bytes]:
        return []
