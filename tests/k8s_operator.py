"""What the KubeRay operator (1.7) checks beyond its schema, and the containers that it makes by itself.

Source: ray-operator/controllers/ray/utils/validation.go and common/{pod,job}.go of ray-project/kuberay.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
MAX_CLUSTER_NAME = 53  # 63 without the suffix of the service names
MAX_JOB_NAME = MAX_CLUSTER_NAME - 6  # a cluster's name gets six characters more
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")  # refused while their alpha feature gates are off
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The spec of the Ray cluster inside a RayCluster or a RayJob."""
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"].get("rayClusterSpec")


def groups(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Head and worker groups by name."""
    yield "head", spec["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["groupName"], group


def operator_errors(manifest: dict[str, Any]) -> list[str]:
    """Why the operator would refuse the object; empty if it would not."""
    is_job = manifest["kind"] == "RayJob"
    name = manifest["metadata"]["name"]
    longest = MAX_JOB_NAME if is_job else MAX_CLUSTER_NAME
    errors = [] if _NAME.fullmatch(name) else [f"name {name!r} is no DNS-1035 label"]
    if len(name) > longest:
        errors.append(f"name has {len(name)} characters, at most {longest} are allowed")
    if is_job:
        errors += _job_errors(manifest["spec"])
    spec = cluster_spec(manifest)
    return [*errors, *(_cluster_errors(spec) if spec else [])]


def _job_errors(job: dict[str, Any]) -> Iterator[str]:
    mode = job.get("submissionMode", "K8sJobMode")
    shuts_down = job.get("shutdownAfterJobFinishes", False)
    ttl = job.get("ttlSecondsAfterFinished", 0)
    selector = job.get("clusterSelector")
    if mode not in SUBMISSION_MODES:
        yield f"submissionMode {mode!r} is none of {sorted(SUBMISSION_MODES)}"
    if ttl < 0:
        yield "ttlSecondsAfterFinished is negative"
    if ttl > 0 and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes: true"
    if job.get("suspend") and not shuts_down:
        yield "suspend needs shutdownAfterJobFinishes: true"
    if job.get("suspend") and selector:
        yield "suspend is not possible with clusterSelector"
    if not job.get("rayClusterSpec") and not selector:
        yield "one of rayClusterSpec and clusterSelector is needed"
    if selector and not selector.get("ray.io/cluster"):
        yield "clusterSelector names no ray.io/cluster"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if job.get(key, 1) <= 0:
            yield f"{key} must be positive"
    retries = job.get("backoffLimit", 0)
    if retries < 0:
        yield "backoffLimit is negative"
    if retries > 0 and (mode == "InteractiveMode" or selector):
        yield "backoffLimit is not possible with InteractiveMode or clusterSelector"
    if mode == "SidecarMode" and (selector or "submitterPodTemplate" in job or "submitterConfig" in job):
        yield "SidecarMode takes no clusterSelector, submitterPodTemplate or submitterConfig"
    strategy = job.get("deletionStrategy")
    if strategy is not None:
        rules, plain = strategy.get("deletionRules", []), {"onSuccess", "onFailure"} & set(strategy)
        if bool(rules) == bool(plain) or (plain and len(plain) < 2):
            yield "deletionStrategy is either onSuccess with onFailure, or deletionRules"
        if rules and shuts_down:
            yield "deletionRules and shutdownAfterJobFinishes exclude each other"
        if any(("jobStatus" in rule["condition"]) == ("jobDeploymentStatus" in rule["condition"]) for rule in rules):
            yield "each deletion rule has exactly one of jobStatus and jobDeploymentStatus"


def _cluster_errors(spec: dict[str, Any]) -> Iterator[str]:
    for key in GATED:
        if key in spec:
            yield f"{key} needs an alpha feature gate of the operator"
    if spec.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
        yield "gcsFaultToleranceOptions.backend rocksdb needs an alpha feature gate of the operator"
    for name, group in groups(spec):
        params = group.get("rayStartParams", {})
        if not group["template"].get("spec", {}).get("containers"):
            yield f"{name}: no container"
        if group.get("resources") and any(params.get(key) for key in _RESOURCE_PARAMS):
            yield f"{name}: resources stand in rayStartParams and in resources"
        if "labels" in params:
            yield f"{name}: labels belong to the group, not to rayStartParams"
        if any(not _LABEL_VALUE.fullmatch(value) for value in group.get("labels", {}).values()):
            yield f"{name}: a label value is none"
        if not all(isinstance(value, str) for value in params.values()):
            yield f"{name}: rayStartParams are strings"
    names = [name for name, _ in groups(spec)]
    if len(set(names)) != len(names):
        yield "two worker groups have one name"
    scales = spec.get("enableInTreeAutoscaling", False)
    version = spec.get("autoscalerOptions", {}).get("version")
    head_env = [entry["name"] for entry in spec["headGroupSpec"]["template"]["spec"]["containers"][0].get("env", [])]
    if scales and version and "RAY_enable_autoscaler_v2" in head_env:
        yield "the autoscaler's version is set twice"
    if scales and version == "v2":
        policies = {group["template"]["spec"].get("restartPolicy", "Never") for _, group in groups(spec)}
        if policies != {"Never"}:
            yield "restartPolicy must be Never with autoscaler v2"
    if scales and any(group.get("suspend") for _, group in groups(spec)):
        yield "a suspended group is not possible with the autoscaler"
    if spec.get("authOptions", {}).get("mode") == "token":
        ray = [int(part) for part in str(spec.get("rayVersion") or "0").split(".")[:2]]
        if ray < [2, 52]:
            yield "authOptions token needs rayVersion of at least 2.52"


def made_by_operator(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pod templates as the operator creates them, with the containers that it adds: a name and a template each."""
    spec = cluster_spec(manifest)
    if spec is not None:
        for name, group in groups(spec):
            template = copy.deepcopy(group["template"])
            kind = "head" if name == "head" else "worker"
            added = {
                "ray.io/is-ray-node": "yes",
                "ray.io/node-type": kind,
                "ray.io/cluster": manifest["metadata"]["name"],
            }
            template.setdefault("metadata", {}).setdefault("labels", {}).update(added)
            pod = template["spec"]
            if kind == "worker":
                pod.setdefault("initContainers", []).append(_wait_for_head(pod["containers"][0]))
            elif spec.get("enableInTreeAutoscaling"):
                pod["containers"].append(_autoscaler(pod["containers"][0], spec.get("autoscalerOptions", {})))
            yield name, template
    if manifest["kind"] == "RayJob" and manifest["spec"].get("submissionMode", "K8sJobMode") == "K8sJobMode":
        yield "submitter", manifest["spec"].get("submitterPodTemplate") or _default_submitter(spec)


def _resources(cpu: str, memory: str) -> dict[str, Any]:
    return {side: {"cpu": cpu, "memory": memory} for side in ("requests", "limits")}


def _wait_for_head(ray: dict[str, Any]) -> dict[str, Any]:
    copied = {key: copy.deepcopy(ray[key]) for key in ("image", "securityContext", "env", "volumeMounts") if key in ray}
    return {"name": "wait-gcs-ready", **copied, "resources": _resources("200m", "256Mi")}


def _autoscaler(ray: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    made = {"name": "autoscaler", "image": ray["image"], "resources": _resources("500m", "512Mi")}
    return made | {
        key: options[key] for key in ("resources", "image", "securityContext", "volumeMounts") if key in options
    }


def _default_submitter(spec: dict[str, Any] | None) -> dict[str, Any]:
    image = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] if spec else "?"
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "200Mi"}}
    return {"spec": {"restartPolicy": "Never", "containers": [{"name": "s", "image": image, "resources": resources}]}}
