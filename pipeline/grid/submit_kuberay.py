"""Submissions as RayJobs: a template of the cluster's owners, filled in with the grid and handed to kubectl."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from pipeline.config import ConfigError
from pipeline.grid.submit import STOP_WAIT_S, ClusterLost, Echo, Ending, Known, Submission

LOOK_EVERY_S = 5.0
PATIENCE_S = 120.0
CODE_FOLDER = "/app"
GRID_FOLDER = "/etc/pipeline"
GRID_FILE = "grid.yaml"
HEAD_SERVER = "http://127.0.0.1:8265"
VOLUME = "pipeline-grid"
LABEL_GRID = "pipeline/grid"
LABEL_SUBMISSION = "pipeline/submission"
LABEL_ATTEMPT = "pipeline/attempt"
ANNOTATIONS = "pipeline/"
ENDED = ("Complete", "Failed")
EXIT_CODE = re.compile(r"exit code (-?\d+)")
Document = dict[str, Any]


class KubeRayJobs:
    """RayJobs of one namespace, made from one template; needs `kubectl` and access to the namespace.

    Args:
        template: a file with a RayJob (others in it are applied by the cluster's owners and left alone here), or a
            kustomize folder that renders to one.
        namespace: of the RayJob; None takes the template's, else that of kubectl's context.
    """

    def __init__(self, template: str, namespace: str | None = None) -> None:
        self._template = read_template(template)
        self.namespace = namespace or self._template["metadata"].get("namespace")
        self._deleted: set[str] = set()

    def documents(self, submission: Submission, attempt: int) -> list[Document]:
        """The grid as a ConfigMap, and the RayJob whose head mounts it."""
        identity = submission.identity(attempt)
        labels = {
            LABEL_GRID: submission.grid.name,
            LABEL_SUBMISSION: submission.fingerprint[:16],
            LABEL_ATTEMPT: str(attempt),
        }
        notes = {f"{ANNOTATIONS}{name}": value for name, value in submission.metadata.items() if name != "grid"}
        place = {} if self.namespace is None else {"namespace": self.namespace}
        grid = submission.grid.model_copy(update={"base": None}).model_dump(mode="json")
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": identity, **place, "labels": labels},
            "data": {GRID_FILE: yaml.safe_dump(grid, sort_keys=False, allow_unicode=True)},
            "immutable": True,
        }
        job = copy.deepcopy(self._template)
        metadata = job["metadata"]
        metadata.pop("generateName", None)
        metadata |= {"name": identity, **place}
        metadata["labels"] = {**metadata.get("labels", {}), **labels}
        metadata["annotations"] = {**metadata.get("annotations", {}), **notes}
        spec = job["spec"]
        words = submission.entrypoint(attempt, grid=f"{GRID_FOLDER}/{GRID_FILE}", with_overrides=False)
        spec["entrypoint"] = " ".join(_plain(word) for word in words)
        spec["jobId"] = identity
        spec["metadata"] = {**spec.get("metadata", {}), **submission.metadata}
        spec["runtimeEnvYAML"] = _runtime_env(spec.get("runtimeEnvYAML"), submission)
        _mount(spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"], identity)
        return [config_map, job]

    def rendered(self, submission: Submission, attempt: int) -> str:
        """What is handed to `kubectl create`."""
        plain = json.loads(json.dumps(self.documents(submission, attempt)))  # spelled out, without YAML's references
        return yaml.dump_all(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)

    def known(self, submission: Submission) -> Sequence[Known]:
        """Attempts that the namespace remembers; finished RayJobs go after their ttl."""
        selector = f"{LABEL_SUBMISSION}={submission.fingerprint[:16]}"
        listed = json.loads(self._kubectl("get", "rayjobs", "--selector", selector, "--output", "json"))
        found: list[Known] = []
        for item in listed["items"]:
            attempt = submission.attempt_of(item["metadata"]["name"])
            if attempt is not None:
                sender = item["metadata"].get("annotations", {}).get(f"{ANNOTATIONS}sender", "somebody")
                found.append(Known(attempt, not _has_ended(item), sender))
        return found

    def send(self, submission: Submission, attempt: int) -> bool:
        """Create the RayJob, then the grid that it waits for and owns; False if its name was taken in the meantime.

        Raises:
            ConfigError: the cluster refuses it.
        """
        config_map, job = self.documents(submission, attempt)
        made = self._run("create", "--filename", "-", "--output", "json", stdin=json.dumps(job))
        if made.returncode != 0:
            if "AlreadyExists" in made.stderr:
                return False
            raise ConfigError(f"the cluster refuses the RayJob: {_first_line(made.stderr)}")
        owner = json.loads(made.stdout)
        config_map["metadata"]["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
            }
        ]
        # a leftover of the same name belongs to a RayJob that is gone
        self._kubectl("delete", "configmap", config_map["metadata"]["name"], "--ignore-not-found")
        self._kubectl("create", "--filename", "-", stdin=json.dumps(config_map))
        return True

    def follow(self, identity: str, echo: Echo) -> Ending:
        """Pass the output on, where a submitter pod has it, else the states, until the RayJob has ended.

        Raises:
            ClusterLost: the API server did not answer for a while, or the RayJob is gone.
        """
        told, logs, lost_at = "", None, None
        try:
            while True:
                reply = self._run("get", "rayjob", identity, "--output", "json")
                if reply.returncode != 0:
                    if "NotFound" in reply.stderr and identity in self._deleted:
                        return Ending("STOPPED")
                    if "NotFound" in reply.stderr:
                        raise ClusterLost("the RayJob was deleted")
                    lost_at = lost_at or time.monotonic()
                    if time.monotonic() - lost_at > PATIENCE_S:
                        raise ClusterLost(f"the API server has not answered for {PATIENCE_S:.0f} s")
                    time.sleep(LOOK_EVERY_S)
                    continue
                lost_at = None
                item = json.loads(reply.stdout)
                status = item.get("status", {})
                states = (status.get("jobDeploymentStatus"), status.get("jobStatus"))
                state = " ".join(part for part in states if part) or "waiting for the operator"
                if state != told:
                    echo(f"[{identity}] {state}\n")
                    told = state
                if _has_ended(item):
                    if logs is not None:
                        logs.wait(timeout=30)
                    return _ending(status)
                if logs is None and status.get("jobStatus") == "RUNNING" and _has_submitter(item):
                    logs = subprocess.Popen(self._command("logs", "--follow", f"job/{identity}"))
                time.sleep(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            return self.follow(identity, lambda text: None)
        finally:
            if logs is not None and logs.poll() is None:
                logs.terminate()
                logs.wait()

    def stop(self, identity: str) -> None:
        """Let the head's own job server end the driver, which then keeps its logs; a job that has not begun is deleted.

        Raises:
            ClusterLost: the head cannot be asked.
        """
        item = json.loads(self._kubectl("get", "rayjob", identity, "--output", "json"))
        status = item.get("status", {})
        if status.get("jobStatus") not in ("PENDING", "RUNNING"):
            self._kubectl("delete", "rayjob", identity, "--wait=false")
            self._deleted.add(identity)
            return
        selector = f"ray.io/cluster={status['rayClusterName']},ray.io/node-type=head"
        head = self._kubectl("get", "pods", "--selector", selector, "--output", "name").split()
        if not head:
            raise ClusterLost("it has no head pod; kubectl delete rayjob ends it for good")
        ask = ("exec", head[0], "--", "ray", "job", "stop", "--no-wait", "--address", HEAD_SERVER, status["jobId"])
        reply = self._run(*ask)
        if reply.returncode != 0:
            raise ClusterLost(f"its head does not stop it ({_first_line(reply.stderr)}); kubectl delete rayjob ends it")

    def _command(self, *arguments: str) -> list[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise ConfigError("kubectl is not installed here; install it, or send what --dry-run prints from elsewhere")
        return [program, *([] if self.namespace is None else ["--namespace", self.namespace]), *arguments]

    def _run(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self._command(*arguments), input=stdin, capture_output=True, text=True)

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        reply = self._run(*arguments, stdin=stdin)
        if reply.returncode != 0:
            raise ConfigError(f"kubectl {arguments[0]} {arguments[1]} failed: {_first_line(reply.stderr)}")
        return reply.stdout


class _Dumper(yaml.SafeDumper):
    """YAML for people: texts of several lines are written as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def read_template(template: str) -> Document:
    """The one RayJob of a file or kustomize folder.

    Raises:
        ConfigError: there is none, or more than one, or it cannot hold a submission.
    """
    path = Path(template)
    if path.is_dir():
        program = shutil.which("kubectl")
        if program is None:
            raise ConfigError(
                f"--kuberay: {template} is a folder, and kubectl, which renders it, is not installed here"
            )
        reply = subprocess.run([program, "kustomize", str(path)], capture_output=True, text=True)
        if reply.returncode != 0:
            raise ConfigError(f"--kuberay: {template} cannot be rendered: {_first_line(reply.stderr)}")
        text = reply.stdout
    else:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--kuberay: {template} cannot be read: {error}") from None
    try:
        documents = [item for item in yaml.safe_load_all(text) if isinstance(item, dict)]
    except yaml.YAMLError as error:
        raise ConfigError(f"--kuberay: {template} is no YAML: {' '.join(str(error).split())[:200]}") from None
    jobs = [cast(Document, item) for item in documents if item.get("kind") == "RayJob"]
    if len(jobs) != 1:
        raise ConfigError(f"--kuberay: {template} has {len(jobs)} RayJobs; give a template with one")
    spec = jobs[0].get("spec") or {}
    if "clusterSelector" in spec or not spec.get("rayClusterSpec"):
        raise ConfigError(
            f"--kuberay: the RayJob of {template} brings no cluster of its own (rayClusterSpec); submit to a cluster "
            "that runs already with --address"
        )
    jobs[0].setdefault("metadata", {})
    return jobs[0]


def _plain(word: str) -> str:
    """A word that no shell changes: the operator writes the entrypoint into a shell script as it is."""
    if shlex.quote(word) != word:
        raise ConfigError(f"{word!r:.80} has characters that a shell would change; use letters, digits and @%+=:,./-_")
    return word


def _runtime_env(given: str | None, submission: Submission) -> str:
    found = yaml.safe_load(given) if given else {}
    if not isinstance(found, Mapping):
        raise ConfigError("--kuberay: runtimeEnvYAML of the template is no mapping")
    environment = dict(cast(Mapping[str, Any], found))
    ours = {"PYTHONPATH": CODE_FOLDER, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    environment["env_vars"] = {**ours, **environment.get("env_vars", {}), **submission.env}
    return yaml.safe_dump(environment, sort_keys=False)


def _mount(pod: Document, config_map: str) -> None:
    """The driver runs in the head's Ray container, which is the first."""
    volumes = [volume for volume in pod.get("volumes", []) if volume["name"] != VOLUME]
    pod["volumes"] = [*volumes, {"name": VOLUME, "configMap": {"name": config_map}}]
    container = pod["containers"][0]
    mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] != VOLUME]
    container["volumeMounts"] = [*mounts, {"name": VOLUME, "mountPath": GRID_FOLDER, "readOnly": True}]


def _has_submitter(item: Document) -> bool:
    return item["spec"].get("submissionMode", "K8sJobMode") == "K8sJobMode"


def _has_ended(item: Document) -> bool:
    """Complete or failed for good; one that is suspended (by Kueue, say) or tried again goes on."""
    return item.get("status", {}).get("jobDeploymentStatus") in ENDED


def _ending(status: Mapping[str, Any]) -> Ending:
    message = str(status.get("message", ""))
    if status.get("jobStatus") == "STOPPED":
        return Ending("STOPPED", None, _first_line(message))
    if status.get("jobDeploymentStatus") == "Complete" and status.get("jobStatus") == "SUCCEEDED":
        return Ending("SUCCEEDED", 0)
    code = EXIT_CODE.search(message)
    return Ending("FAILED", int(code[1]) if code else None, _first_line(message) or str(status.get("reason", "")))


def _first_line(text: str) -> str:
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")[:300]
