"""The launcher file and the care of the bucket: Ray's and botocore's own checks, and a real S3 emulation."""

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import click
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import fillout_defaults, validate_config
from ray.scripts.scripts import start

from tests.processes import free_port
from tests.unit.test_infra import COMPOSE, INFRA, loaded, ray_options

LAUNCHER = yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())
NODE_TYPES: dict[str, dict[str, Any]] = LAUNCHER["available_node_types"]


def checked_by_ray(config: dict[str, Any]) -> None:
    validate_config(fillout_defaults(config))


def test_ray_accepts_the_launcher_file() -> None:
    checked_by_ray(LAUNCHER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("idle_timeout_minutes", "idle_timeout"),
        ("container_name", "container"),
        ("max_workers: 8\nup", "max_workers: many\nup"),
    ],
)
def test_ray_refuses_a_planted_mistake(old: str, new: str) -> None:
    text = (INFRA / "ray-cluster.yaml").read_text()
    assert old in text
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        checked_by_ray(yaml.safe_load(text.replace(old, new, 1)))


def run_instances_problems(node: dict[str, Any]) -> str:
    """What botocore says of an instance request, after Ray has put one subnet in the place of its list."""
    request = {**node, "SubnetId": node["SubnetIds"][0], "MinCount": 1, "MaxCount": 1}
    del request["SubnetIds"]
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    return ParamValidator().validate(request, shape).generate_report()


@pytest.mark.parametrize("name", NODE_TYPES)
def test_ec2_knows_every_key_of_a_node(name: str) -> None:
    node = NODE_TYPES[name]["node_config"]
    assert run_instances_problems(node) == ""
    assert "Unknown parameter" in run_instances_problems({**node, "InstanceMarketOption": {"MarketType": "spot"}})


def test_workers_are_spot_instances_and_the_head_is_not() -> None:
    head = NODE_TYPES[LAUNCHER["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    workers = [NODE_TYPES[name] for name in NODE_TYPES if name != LAUNCHER["head_node_type"]]
    assert workers
    for worker in workers:
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert worker["node_config"]["IamInstanceProfile"] != head["node_config"]["IamInstanceProfile"]
    assert LAUNCHER["provider"]["cache_stopped_nodes"] is False


def test_nodes_demand_tokens_and_bring_their_own_security_group() -> None:
    for node in (item["node_config"] for item in NODE_TYPES.values()):
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert node["SecurityGroupIds"]
        assert all(device["Ebs"]["Encrypted"] for device in node["BlockDeviceMappings"])
    options = LAUNCHER["docker"]["run_options"]
    assert {"--cap-drop=ALL", "--security-opt=no-new-privileges", "--env=RAY_AUTH_MODE=token"} <= set(options)
    path = next(word.partition("RAY_AUTH_TOKEN_PATH=")[2] for word in options if "RAY_AUTH_TOKEN_PATH" in word)
    assert str(Path(path).parent) in LAUNCHER["file_mounts"]
    assert not any(re.search("SECRET|ACCESS_KEY|PASSWORD|AUTH_TOKEN=", word) for word in options)


def launched(kind: str) -> dict[str, Any]:
    """Ray's reading of the command that starts it on a node."""
    command = LAUNCHER[f"{kind}_start_ray_commands"][-1]
    return ray_options(shlex.split(command.replace("$RAY_HEAD_IP", "10.0.0.1")))


@pytest.mark.parametrize(("kind", "service"), [("head", "ray-head"), ("worker", "ray-worker")])
def test_launched_nodes_use_the_ports_of_the_compose_cluster(kind: str, service: str) -> None:
    options, expected = launched(kind), ray_options(COMPOSE["services"][service]["command"])
    names = [name for name in expected if name.endswith("port")]
    assert {name: options[name] for name in names} == {name: expected[name] for name in names}
    assert options["head"] is (kind == "head")


def test_job_port_of_a_launched_head_is_closed_to_the_network() -> None:
    assert launched("head")["dashboard_host"] == "127.0.0.1"
    assert launched("head")["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


def test_ray_refuses_an_option_it_does_not_know() -> None:
    with pytest.raises(click.UsageError):
        start.make_context("start", ["--head", "--object-manger-port=1"])


def test_lifecycle_is_valid_and_deletes_no_finished_object() -> None:
    rules = json.loads((INFRA / "lifecycle.json").read_text())
    model = botocore.session.get_session().get_service_model("s3")
    shape = model.operation_model("PutBucketLifecycleConfiguration").input_shape
    request = {"Bucket": "pipeline", "LifecycleConfiguration": rules}
    assert ParamValidator().validate(request, shape).generate_report() == ""
    actions = {key for rule in rules["Rules"] for key in rule} - {"ID", "Status", "Filter"}
    assert actions == {"AbortIncompleteMultipartUpload"}


@pytest.fixture
def bucket(s3_url: str) -> str:
    """An existing bucket; the environment points at its server."""
    return s3_url.removeprefix("s3://").partition("/")[0]


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(INFRA / "bucket.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_a_missing_bucket_is_made_and_an_existing_one_left_in_place(bucket: str) -> None:
    client = boto3.client("s3")
    fresh = f"fresh-{bucket}"[:63]
    for made in ("True", "False"):
        done = run_script(fresh)
        assert done.returncode == 0, done.stderr
        assert f"bucket={fresh} made={made} rule_kept=True aborted_uploads=0" in done.stderr
        client.put_object(Bucket=fresh, Key="a", Body=b"1")
    assert client.get_object(Bucket=fresh, Key="a")["Body"].read() == b"1"


@pytest.mark.slow
def test_rules_of_others_stay_and_ours_is_set_once(bucket: str) -> None:
    client = boto3.client("s3")
    other = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [other]})
    script = loaded("bucket")
    assert script.set_rule(client, bucket)
    assert script.set_rule(client, bucket)
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert sorted(rule["ID"] for rule in rules) == ["abort-unfinished-uploads", "theirs"]


@pytest.mark.slow
def test_only_uploads_older_than_the_limit_are_aborted(bucket: str) -> None:
    client = boto3.client("s3")
    for key in ("a", "b"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    uploads = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    age_s = (datetime.now(UTC) - uploads[0]["Initiated"]).total_seconds()  # this server always names a day of 2010
    script = loaded("bucket")
    assert script.abort_old_uploads(client, bucket, age_s + 3600) == 0
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 2
    assert script.abort_old_uploads(client, bucket, age_s - 3600) == 2
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


@pytest.mark.slow
def test_a_bucket_with_versions_is_refused_with_one_sentence(bucket: str) -> None:
    boto3.client("s3").put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    done = run_script(bucket)
    assert done.returncode == 2
    assert f"bucket {bucket} keeps versions" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = run_script(bucket)
    assert done.returncode == 2
    assert f"bucket {bucket}: Could not connect" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.environ["AWS_ENDPOINT_URL"] in done.stderr
