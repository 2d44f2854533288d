"""Makes the bucket of a store and keeps it tidy: no versions, and no parts of uploads that nobody will finish.

python infra/bucket.py pipeline               # make it, set the rule of lifecycle.json, abort old uploads
python infra/bucket.py pipeline --every-h 24  # and again every 24 h

The address is AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else AWS; credentials come as for the pipeline, and need the
right to make buckets. Finished objects are never deleted: those belong to `python -m pipeline gc`. A server may accept
the rule and not act on it (SeaweedFS without its admin and worker processes); so old uploads are also aborted here.
"""

import argparse
import json
import logging
import os
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

log = logging.getLogger("bucket")

RULE: dict[str, Any] = json.loads(Path(__file__).with_name("lifecycle.json").read_text())["Rules"][0]
ACTION = "AbortIncompleteMultipartUpload"
UPLOAD_DAYS: int = RULE[ACTION]["DaysAfterInitiation"]


class Refused(Exception):
    """The bucket cannot be used; one sentence for people."""


def s3_client() -> Any:
    """A client for the server that the environment names."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"total_max_attempts": 5, "mode": "standard"},
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.client("s3", endpoint_url=endpoint, config=config)


def make_bucket(client: Any, bucket: str) -> bool:
    """Whether the bucket had to be made.

    Raises:
        Refused: it belongs to somebody else, or keeps versions.
    """
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status != 404:
            raise Refused(
                f"bucket {bucket}: the server answers {status}; check the name and the credentials"
            ) from error
        region = client.meta.region_name
        where = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **where)
        return True
    state = client.get_bucket_versioning(Bucket=bucket).get("Status")
    if state == "Enabled":
        raise Refused(
            f"bucket {bucket} keeps versions, so deleted data would stay and be paid for; take one that does not"
        )
    return False


def set_rule(client: Any, bucket: str) -> bool:
    """Whether the server keeps the rule about unfinished uploads; other rules of the bucket stay as they are.

    Raises:
        Refused: these credentials may not set rules.
    """
    try:
        try:
            others = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        except ClientError as error:
            if status_of(error) != 404:
                raise
            others = []
        rules = [*(rule for rule in others if rule.get("ID") != RULE["ID"]), RULE]
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
        kept = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if status_of(error) in (400, 405, 501):  # the server does not know this kind of rule
            return False
        raise Refused(f"bucket {bucket}: cannot set its rules ({error}); use credentials that may") from error
    return any(rule.get(ACTION) == RULE[ACTION] for rule in kept)


def status_of(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def abort_old_uploads(client: Any, bucket: str, older_than_s: float) -> int:
    """Aborts uploads that began more than `older_than_s` seconds ago by the server's clock; returns how many."""
    count = 0
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
        for upload in page.get("Uploads", ()):
            if (now - upload["Initiated"]).total_seconds() > older_than_s:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                count += 1
    return count


def tidy(client: Any, bucket: str) -> None:
    """One round of everything."""
    made = make_bucket(client, bucket)
    kept = set_rule(client, bucket)
    aborted = abort_old_uploads(client, bucket, UPLOAD_DAYS * 86400)
    log.info("event=tidied bucket=%s made=%s rule_kept=%s aborted_uploads=%d", bucket, made, kept, aborted)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("buckets", nargs="+", metavar="BUCKET")
    parser.add_argument("--every-h", type=float, help="go on, with so many hours between rounds")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    while True:
        failures: list[str] = []
        for bucket in given.buckets:
            try:
                tidy(s3_client(), bucket)
            except Refused as error:
                failures.append(str(error))
            except (ClientError, BotoCoreError) as error:
                failures.append(f"bucket {bucket}: {error}")
        for failure in failures:
            log.error(failure)
        if given.every_h is None:
            return 2 if failures else 0
        time.sleep(given.every_h * 3600)


if __name__ == "__main__":
    sys.exit(main())
