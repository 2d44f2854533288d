"""Evaluates NetworkPolicies as Kubernetes defines them: a connection needs leave on both of its sides."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from tests.k8s_kustomize import Manifest

NAMESPACE = "pipeline"


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod with labels in a namespace, or an address outside the cluster."""

    labels: dict[str, str] = field(default_factory=dict[str, str])
    namespace: str = NAMESPACE
    address: str | None = None


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, unknown
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _is_peer(rule: dict[str, Any], peer: Peer) -> bool:
    if "ipBlock" in rule:
        if peer.address is None:
            return False
        address, block = ipaddress.ip_address(peer.address), rule["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(cut) for cut in block.get("except", []))
    if peer.address is not None:
        return False
    namespace = rule.get("namespaceSelector")
    names = {"kubernetes.io/metadata.name": peer.namespace}
    is_in = peer.namespace == NAMESPACE if namespace is None else _selects(namespace, names)
    return is_in and _selects(rule.get("podSelector", {}), peer.labels)


def _has_leave(policies: list[Manifest], pod: Peer, other: Peer, port: int, protocol: str, side: str) -> bool:
    if pod.address is not None or pod.namespace != NAMESPACE:
        return True  # not ours to decide
    peers, is_limited = ("from" if side == "ingress" else "to"), False
    for policy in policies:
        spec = policy["spec"]
        if side.capitalize() not in spec["policyTypes"] or not _selects(spec["podSelector"], pod.labels):
            continue
        is_limited = True
        for rule in spec.get(side, []):
            ports = rule.get("ports")
            fits = ports is None or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)
            if fits and (peers not in rule or any(_is_peer(entry, other) for entry in rule[peers])):
                return True
    return not is_limited


def allows(manifests: list[Manifest], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies among the objects let `source` connect to a port of `target`."""
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    return _has_leave(policies, source, target, port, protocol, "egress") and _has_leave(
        policies, target, source, port, protocol, "ingress"
    )
