"""Strict checks of KubeRay's objects: the schemas of its CRDs with unknown keys as errors.

A CRD alone prunes unknown keys without a word and knows nothing of metadata, so here every object with properties is
closed, `metadata` of the object itself too, and apiVersion and kind are constants.
"""

import gzip
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FILES = {"RayCluster": "ray.io_rayclusters.yaml.gz", "RayJob": "ray.io_rayjobs.yaml.gz"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "generateName": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
        "finalizers": {"type": "array", "items": {"type": "string"}},
    },
}


def crd_folder() -> Path | None:
    """The folder with the CRDs, gzip files named as in KubeRay's Helm chart; None where KUBERAY_CRDS is not set."""
    given = os.environ.get("KUBERAY_CRDS")
    return Path(given) if given else None


def closed(schema: Any) -> Any:
    """A CRD schema as JSON Schema 2020-12 in which unknown keys are errors."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "properties"}
    result = {key: closed(value) for key, value in kept.items()}
    if "properties" in schema:
        result["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):  # `pattern` stays, else the quantity 16GB passes
        result.pop("type", None)
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if result.pop("nullable", False) and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    return result


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """The strict validator of a kind; about a second per kind, then kept.

    Raises:
        FileNotFoundError: KUBERAY_CRDS does not hold the kind's file.
    """
    folder = crd_folder()
    assert folder is not None, "KUBERAY_CRDS is not set"
    with gzip.open(folder / FILES[kind]) as file:
        crd = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [entry for entry in crd["spec"]["versions"] if entry["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    schema["properties"] |= {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": METADATA}
    del schema["properties"]["status"]
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def schema_errors(manifest: dict[str, Any], kind: str) -> list[str]:
    """What the strict schema of `kind` says against an object, each with its path."""
    found = validator(kind).iter_errors(manifest)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


def pod_template_errors(template: dict[str, Any]) -> list[str]:
    """What the pod template inside the RayCluster schema says against the template of another workload."""
    schema: Any = validator("RayCluster").schema
    pod = schema["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    found = jsonschema.Draft202012Validator(pod).iter_errors(template)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]
