"""A RayJob per submission: what is filled in, and what kubectl is asked for."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import ConfigError
from pipeline.grid import submit_kuberay
from pipeline.grid.spec import load_grid
from pipeline.grid.submit import ClusterLost, Submission, cancel, read_submission, submit
from pipeline.grid.submit_kuberay import KubeRayJobs, read_template
from tests.grids import tiny_grid
from tests.k8s_schema import crd_folder, validator

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "k8s" / "job" / "rayjob.yaml"
STORE = "s3://bucket/runs"


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    overrides = ("experiment.train.steps=21", "name=small")
    return read_submission(
        str(tiny_grid(tmp_path)), store=STORE, overrides=overrides, env=["PIPELINE_DATA=/data"], tracking="none"
    )


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stand-in for kubectl, which is first in PATH."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "kubectl_program.py"} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.setenv("KUBECTL_STATE", str(folder))
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(submit_kuberay, "LOOK_EVERY_S", 0.02)
    return folder


def write_status(state: Path, identity: str, **status: Any) -> None:
    """What the operator says about a RayJob."""
    path = state / f"rayjob.{identity}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": status}))


def calls(state: Path, verb: str) -> list[list[str]]:
    lines = (state / "calls").read_text().splitlines()
    return [call for call in map(json.loads, lines) if verb in call]


def test_the_template_is_filled_in_and_nothing_else_of_it_changes(submission: Submission) -> None:
    identity = submission.identity(3)
    config_map, job = KubeRayJobs(str(TEMPLATE), "research").documents(submission, 3)
    template = read_template(str(TEMPLATE))
    assert config_map["metadata"]["name"] == job["metadata"]["name"] == job["spec"]["jobId"] == identity
    assert job["metadata"]["namespace"] == config_map["metadata"]["namespace"] == "research"
    assert job["metadata"]["labels"].items() >= template["metadata"]["labels"].items(), "queue labels stay"
    words = job["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "pipeline.grid.submit_driver", identity]
    assert words[-7:] == ["--", "run", "/etc/pipeline/grid.yaml", "--store", STORE, "--tracking", "none"]
    runtime_env = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert runtime_env["env_vars"]["PIPELINE_DATA"] == "/data"
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "pipeline-grid", "configMap": {"name": identity}} in head["volumes"]
    assert {"name": "pipeline-grid", "mountPath": "/etc/pipeline", "readOnly": True} in head["containers"][0][
        "volumeMounts"
    ]
    head["volumes"].pop()
    head["containers"][0]["volumeMounts"].pop()
    for name in ("entrypoint", "jobId", "metadata", "runtimeEnvYAML"):
        job["spec"].pop(name), template["spec"].pop(name, None)
    assert job["spec"] == template["spec"]


def test_the_grid_that_travels_is_the_one_that_was_asked_for(submission: Submission, tmp_path: Path) -> None:
    config_map, _ = KubeRayJobs(str(TEMPLATE)).documents(submission, 1)
    path = tmp_path / "travelled.yaml"
    path.write_text(config_map["data"]["grid.yaml"])
    travelled = load_grid(str(path))
    assert travelled.identity() == submission.grid.identity()
    assert travelled.experiment.train.steps == 21


@pytest.mark.skipif(crd_folder() is None, reason="KUBERAY_CRDS does not name a folder with KubeRay's CRDs")
def test_the_rayjob_satisfies_the_schema_of_its_crd(submission: Submission) -> None:
    printed = list(yaml.safe_load_all(KubeRayJobs(str(TEMPLATE), "research").rendered(submission, 1)))
    assert [document["kind"] for document in printed] == ["ConfigMap", "RayJob"]
    assert [error.message for error in validator("RayJob").iter_errors(printed[1])] == []


TEMPLATES = {
    "no RayJob": ("kind: ConfigMap\n", r"has 0 RayJobs; give a template with one"),
    "two": ("kind: RayJob\n---\nkind: RayJob\n", r"has 2 RayJobs"),
    "somebody else's cluster": (
        "kind: RayJob\nspec: {clusterSelector: {ray.io/cluster: x}}\n",
        r"brings no cluster of its own .*--address",
    ),
    "no YAML": ("kind: [\n", r"is no YAML"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_cannot_hold_a_submission_is_refused(case: str, tmp_path: Path) -> None:
    text, sentence = TEMPLATES[case]
    (tmp_path / "template.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        KubeRayJobs(str(tmp_path / "template.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        KubeRayJobs(str(tmp_path / "nowhere.yaml"))


def test_words_that_a_shell_would_change_are_refused(tmp_path: Path) -> None:
    submission = read_submission(str(tiny_grid(tmp_path)), store=STORE, data="/my data/$HOME")
    with pytest.raises(ConfigError, match=r"'/my data/\$HOME' has characters that a shell would change"):
        KubeRayJobs(str(TEMPLATE)).documents(submission, 1)


def test_a_submission_is_created_once_and_seen_to_its_end(submission: Submission, state: Path) -> None:
    cluster, told = KubeRayJobs(str(TEMPLATE), "research"), list[str]()
    assert submit(cluster, submission, echo=told.append, tell=told.append, wait=False) == 0
    identity = submission.identity(1)
    config_map = json.loads((state / f"configmap.{identity}").read_text())
    assert config_map["metadata"]["ownerReferences"][0]["name"] == identity, "the grid goes with its RayJob"
    assert all(call[:2] == ["--namespace", "research"] for call in calls(state, "create"))

    write_status(state, identity, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", jobId=identity)
    assert cluster.follow(identity, told.append).exit_code == 0
    message = "Job entrypoint command failed with exit code 3, last available logs (truncated):\nlines"
    write_status(state, identity, jobDeploymentStatus="Failed", jobStatus="FAILED", message=message)
    assert cluster.follow(identity, told.append).exit_code == 3
    write_status(state, identity, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
    assert cluster.follow(identity, told.append).message == "DeadlineExceeded"
    write_status(state, identity, jobDeploymentStatus="Complete", jobStatus="STOPPED")
    assert cluster.follow(identity, told.append).exit_code == 130

    assert submit(cluster, submission, echo=told.append, tell=told.append, wait=False) == 0
    assert (state / f"rayjob.{submission.identity(2)}").exists(), "the ended one counts as an attempt"


def test_a_live_rayjob_is_attached_to(submission: Submission, state: Path) -> None:
    cluster, told = KubeRayJobs(str(TEMPLATE)), list[str]()
    submit(cluster, submission, echo=told.append, tell=told.append, wait=False)
    for status in ({}, {"jobDeploymentStatus": "Suspended"}, {"jobDeploymentStatus": "Retrying"}):
        write_status(state, submission.identity(1), **status)
        submit(cluster, submission, echo=told.append, tell=told.append, wait=False)
        assert "attached to" in told[-1]
    assert [path.name for path in state.glob("rayjob.*")] == [f"rayjob.{submission.identity(1)}"]
    assert not cluster.send(submission, 1), "a name that is taken is no error"


def test_cancel_asks_the_head_and_a_job_that_has_not_begun_is_deleted(submission: Submission, state: Path) -> None:
    cluster, told = KubeRayJobs(str(TEMPLATE)), list[str]()
    submit(cluster, submission, echo=told.append, tell=told.append, wait=False)
    identity = submission.identity(1)
    assert cancel(cluster, submission, echo=told.append, tell=told.append) == 0
    assert not (state / f"rayjob.{identity}").exists()
    with pytest.raises(ClusterLost, match="the RayJob was deleted"):
        KubeRayJobs(str(TEMPLATE)).follow(identity, told.append)

    submit(cluster, submission, echo=told.append, tell=told.append, wait=False)
    running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "jobId": identity, "rayClusterName": "c1"}
    write_status(state, identity, **running)
    with pytest.raises(ClusterLost, match="no head pod"):
        cluster.stop(identity)
    labels = {"ray.io/cluster": "c1", "ray.io/node-type": "head"}
    (state / "pod.head-1").write_text(json.dumps({"metadata": {"name": "head-1", "labels": labels}}))
    cluster.stop(identity)
    (asked,) = calls(state, "exec")
    assert asked == ["exec", "pod/head-1", "--", "ray", "job", "stop", "--no-wait", "--address", asked[-2], identity]
    (state / "exec-code").write_text("1")
    with pytest.raises(ClusterLost, match="the server refuses"):
        cluster.stop(identity)


def test_without_kubectl_there_is_a_sentence(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = KubeRayJobs(str(TEMPLATE))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="kubectl is not installed here"):
        cluster.known(submission)
