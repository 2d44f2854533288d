"""Who may reach whom, by evaluating the rendered NetworkPolicies: nothing but what a run needs."""

import pytest

from tests.k8s_kustomize import PLATFORMS, rendered
from tests.k8s_network import Peer, allows
from tests.k8s_operator import made_by_operator
from tests.k8s_policy import pods

RANDOM = 43210  # gloo and NCCL pick any port
JOBS, GCS, METRICS, S3, MLFLOW, POSTGRES, HTTPS = 8265, 6379, 8080, 8333, 5000, 5432, 443


def peers(platform: str) -> dict[str, Peer]:
    """The pods of an overlay by a short name, with the labels that they really carry, and some from elsewhere."""
    found: dict[str, Peer] = {}
    for manifest in [*rendered(platform), *rendered(f"{platform}/job")]:
        if manifest["kind"] in ("RayCluster", "RayJob"):
            kind = "cluster" if manifest["kind"] == "RayCluster" else "job"
            for name, template in made_by_operator(manifest):
                found[name if name == "submitter" else f"{kind} {name}"] = Peer(template["metadata"]["labels"])
        else:
            for name, template in pods([manifest]):
                found[name.split("/")[1]] = Peer(template["metadata"]["labels"])
    return found | {
        "operator": Peer({"app.kubernetes.io/name": "kuberay-operator"}, namespace="ray-system"),
        "prometheus": Peer(namespace="monitoring"),
        "dns": Peer({"k8s-app": "kube-dns"}, namespace="kube-system"),
        "stranger": Peer(
            {"ray.io/node-type": "worker", "app.kubernetes.io/component": "submitter"}, namespace="default"
        ),
        "unlabelled": Peer(),
        "bucket of the cloud": Peer(address="52.219.170.1"),
        "instance metadata": Peer(address="169.254.169.254"),
        "API server": Peer(address="10.96.0.1"),
    }


NEEDED = [
    ("cluster workers", "cluster head", GCS),
    ("cluster workers", "cluster workers", RANDOM),
    ("cluster head", "cluster workers", RANDOM),
    ("job workers", "job head", GCS),
    ("job workers", "job workers", RANDOM),
    ("job head", "job workers", RANDOM),
    ("submitter", "job head", JOBS),
    ("operator", "job head", JOBS),
    ("operator", "cluster head", JOBS),
    ("prometheus", "job workers", METRICS),
    ("cluster head", "mlflow", MLFLOW),
    ("job head", "mlflow", MLFLOW),
    ("mlflow", "postgres", POSTGRES),
    ("postgres-backup", "postgres", POSTGRES),
]
REFUSED = [
    ("stranger", "job head", JOBS),
    ("stranger", "cluster head", GCS),
    ("stranger", "mlflow", MLFLOW),
    ("stranger", "postgres", POSTGRES),
    ("unlabelled", "job head", JOBS),
    ("unlabelled", "mlflow", MLFLOW),
    ("operator", "job head", GCS),
    ("operator", "job workers", JOBS),
    ("prometheus", "job head", JOBS),
    ("prometheus", "mlflow", MLFLOW),
    ("submitter", "job head", GCS),
    ("submitter", "job workers", RANDOM),
    ("submitter", "mlflow", MLFLOW),
    ("submitter", "bucket of the cloud", HTTPS),
    ("job workers", "cluster head", GCS),
    ("cluster workers", "job workers", RANDOM),
    ("job workers", "postgres", POSTGRES),
    ("mlflow", "job head", JOBS),
    ("postgres", "job head", GCS),
    ("postgres", "bucket of the cloud", HTTPS),
    ("postgres-backup", "mlflow", MLFLOW),
    ("job workers", "instance metadata", 80),
    ("job workers", "API server", HTTPS),
    ("job workers", "bucket of the cloud", 22),
    ("stranger", "job workers", METRICS),
]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_a_run_needs_is_open(platform: str) -> None:
    manifests, who = rendered(platform), peers(platform)
    buckets = ("cluster workers", "cluster head", "job workers", "job head", "mlflow", "bucket-care")
    store, port = ("seaweedfs", S3) if platform == "local" else ("bucket of the cloud", HTTPS)
    needed = [*NEEDED, *((name, store, port) for name in buckets)]
    assert [case for case in needed if not allows(manifests, who[case[0]], who[case[1]], case[2])] == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_everything_else_is_closed(platform: str) -> None:
    manifests, who = rendered(platform), peers(platform)
    assert [case for case in REFUSED if allows(manifests, who[case[0]], who[case[1]], case[2])] == []


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_every_pod_may_ask_for_names(protocol: str) -> None:
    manifests, who = rendered("local"), peers("local")
    inside = [name for name, peer in who.items() if peer.namespace == "pipeline" and peer.address is None]
    assert [name for name in inside if not allows(manifests, who[name], who["dns"], 53, protocol)] == []


def test_only_users_of_the_bucket_reach_the_local_object_store() -> None:
    manifests, who = rendered("local"), peers("local")
    outside = ("submitter", "postgres", "postgres-backup", "stranger", "unlabelled", "operator")
    assert [name for name in outside if allows(manifests, who[name], who["seaweedfs"], S3)] == []


def test_without_the_default_everything_would_be_open() -> None:
    who = peers("gpu")
    assert allows([], who["stranger"], who["postgres"], POSTGRES)
