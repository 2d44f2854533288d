"""What every pod has to satisfy, whoever made it: the restricted standard, and this project's own rules."""

import re
from collections.abc import Iterator
from typing import Any

from tests.k8s_kustomize import Manifest
from tests.k8s_operator import made_by_operator

TEMPLATES = {  # where the pod template of a kind is
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
WITHOUT_PODS = {
    "Namespace", "ResourceQuota", "LimitRange", "PriorityClass", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim",
    "PodDisruptionBudget", "NetworkPolicy", "Service", "PodMonitor", "PrometheusRule",
}  # fmt: skip
VOLUMES = {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|PRIVATE")
PINNED = re.compile(r"(:(?!latest)[\w.-]+|@sha256:[0-9a-f]{64})$")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str | int) -> float:
    """The number behind a quantity such as `500m` or `2Gi`."""
    match = re.fullmatch(r"([0-9.]+)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(text))
    assert match, f"{text!r} is no quantity"
    return float(match[1]) * UNITS[match[2] or ""]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the objects lead to: name and template; a kind that is not known here is an error."""
    for manifest in manifests:
        kind, name = manifest["kind"], f"{manifest['kind']}/{manifest['metadata']['name']}"
        if kind in ("RayCluster", "RayJob"):
            for part, template in made_by_operator(manifest):
                yield f"{name}/{part}", template
        elif kind in TEMPLATES:
            node: Any = manifest
            for key in TEMPLATES[kind]:
                node = node[key]
            yield name, node
        elif kind not in WITHOUT_PODS:
            raise ValueError(f"{name}: say whether this kind makes pods")


def violations(template: dict[str, Any]) -> list[str]:
    """Rules that a pod template breaks; empty if none."""
    pod = template["spec"]
    found = list(_pod_violations(pod))
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {text}" for text in _container_violations(container, pod)]
    return found


def _pod_violations(pod: dict[str, Any]) -> Iterator[str]:
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not all(security.get(key, 0) > 0 for key in ("runAsUser", "runAsGroup")):
        yield "runAsUser and runAsGroup are not both above 0"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccompProfile is not RuntimeDefault"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a service account token is mounted"
    if pod.get("serviceAccountName", "default") == "default":
        yield "no service account of its own"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false"
    yield from (f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.get(key))
    for volume in pod.get("volumes", []):
        (kind,) = set(volume) - {"name"}
        if kind not in VOLUMES:
            yield f"volume {volume['name']} is {kind}"
        if kind == "emptyDir" and "sizeLimit" not in volume[kind]:
            yield f"volume {volume['name']} has no size limit"


def _container_violations(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities are not all dropped"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if security.get("runAsNonRoot", True) is not True or security.get("runAsUser", 1) == 0:
        yield "runs as root"
    if security.get("privileged") or security.get("procMount", "Default") != "Default":
        yield "is privileged"
    resources = container.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    if not {"cpu", "memory"} <= set(limits):
        yield "cpu and memory have no limits"
    if requests != limits:
        yield "requests differ from limits"
    if not PINNED.search(container["image"]):
        yield f"image {container['image']} has neither a tag nor a digest"
    for entry in container.get("env", []):
        if SECRET_NAME.search(entry["name"]) and "secretKeyRef" not in entry.get("valueFrom", {}):
            yield f"{entry['name']} is no reference to a secret"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the host"
    mounts = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
    if "/tmp" not in mounts:
        yield "/tmp cannot be written"
    provided = {volume["name"] for volume in pod.get("volumes", [])}
    yield from (
        f"mounts {mount['name']}, which is no volume"
        for mount in container.get("volumeMounts", [])
        if mount["name"] not in provided | {"data"}  # `data` comes from volumeClaimTemplates
    )
