"""Renders the kustomizations of this repository; what it does not know is an error, so nothing is left out.

Known: resources, components, namespace, labels (without selectors), patches (JSON 6902, and strategic merge of maps),
images. Order as in kustomize: resources, components, patches, labels, namespace, images.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
PLATFORMS = ("local", "gpu", "spot")
OVERLAYS = (*PLATFORMS, *(f"{name}/job" for name in PLATFORMS))
CLUSTER_SCOPED = {"Namespace", "PriorityClass"}
KEYS = {"apiVersion", "kind", "resources", "components", "namespace", "labels", "patches", "images"}

Manifest = dict[str, Any]


def rendered(overlay: str) -> list[Manifest]:
    """All objects of one overlay, `local` or `local/job`."""
    return build(K8S / "overlays" / overlay)


def documents(path: Path) -> list[Manifest]:
    """The documents of a YAML file, aliases written out: no two places share a node."""
    return [json.loads(json.dumps(found)) for found in yaml.safe_load_all(path.read_text()) if found is not None]


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The object of this kind (and name); exactly one."""
    found = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {len(found)} objects"
    return found[0]


def build(folder: Path, inherited: list[Manifest] | None = None) -> list[Manifest]:
    """The objects of a kustomization; a component changes the `inherited` ones.

    Raises:
        ValueError: a key, a patch or a target that this renderer or kustomize would not take.
    """
    (kustomization,) = documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - KEYS
    if unknown:
        raise ValueError(f"{folder}: keys {sorted(unknown)} are not rendered")
    manifests = list(inherited or [])
    for name in kustomization.get("resources", []):
        path = (folder / name).resolve()
        manifests += build(path) if path.is_dir() else documents(path)
    for name in kustomization.get("components", []):
        manifests = build((folder / name).resolve(), manifests)
    for entry in kustomization.get("patches", []):
        _patch(manifests, entry, folder)
    for entry in kustomization.get("labels", []):
        if set(entry) != {"pairs"}:
            raise ValueError(f"{folder}: labels with {sorted(entry)} are not rendered")
        for manifest in manifests:
            manifest["metadata"].setdefault("labels", {}).update(entry["pairs"])
    if "namespace" in kustomization:
        for manifest in manifests:
            if manifest["kind"] not in CLUSTER_SCOPED:
                manifest["metadata"]["namespace"] = kustomization["namespace"]
    for entry in kustomization.get("images", []):
        for manifest in manifests:
            _set_image(manifest, entry)
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
    if len(set(names)) != len(names):
        raise ValueError(f"{folder}: the same object twice")
    return manifests


def _patch(manifests: list[Manifest], entry: dict[str, Any], folder: Path) -> None:
    content: Any
    (content,) = documents(folder / entry["path"])
    target = entry.get("target")
    if target is None:
        target = {"kind": content["kind"], "name": content["metadata"]["name"]}
    matching = [m for m in manifests if m["kind"] == target["kind"] and m["metadata"]["name"] == target["name"]]
    if set(target) != {"kind", "name"} or len(matching) != 1:
        raise ValueError(f"{folder}/{entry['path']}: target {target} is {len(matching)} objects")
    if isinstance(content, list):
        for operation in content:
            _apply(matching[0], operation)
    else:
        _merge(matching[0], content)


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, list) or value is None or str(key).startswith("$"):
            raise ValueError(f"{key}: only maps and scalars are merged; use a JSON patch")
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _apply(manifest: Manifest, operation: dict[str, Any]) -> None:
    """One operation of RFC 6902: add, replace or remove."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    at: Any = manifest
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    op, is_list = operation["op"], isinstance(at, list)
    key: Any = int(last) if is_list and last != "-" else last
    exists = (last != "-" and key < len(at)) if is_list else key in at
    if op in ("replace", "remove") and not exists:
        raise ValueError(f"{operation['path']}: nothing there to {op}")
    if op == "remove":
        del at[key]
    elif op == "add" and is_list:
        at.insert(len(at) if last == "-" else key, operation["value"])
    elif op in ("add", "replace"):
        at[key] = operation["value"]
    else:
        raise ValueError(f"{op}: not rendered")


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Every container anywhere below a node, init containers included."""
    if isinstance(node, list):
        for item in node:
            yield from containers(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)


def _set_image(manifest: Manifest, entry: dict[str, str]) -> None:
    for container in containers(manifest):
        name, _, _ = container["image"].partition("@")
        name = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
        if name == entry["name"]:
            tag = f":{entry['newTag']}" if "newTag" in entry else ""
            digest = f"@{entry['digest']}" if "digest" in entry else ""
            container["image"] = f"{entry.get('newName', name)}{tag}{digest}"
