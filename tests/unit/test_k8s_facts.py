"""Manifests against the rest of the repository and the installed software: versions, options, names."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipeline import __version__
from pipeline.cli import cli
from tests.k8s_kustomize import K8S, OVERLAYS, PLATFORMS, ROOT, Manifest, containers, one, rendered
from tests.k8s_operator import cluster_spec, groups

VARIANTS = {"local": "cpu", "gpu": "cuda", "spot": "cuda"}


def nodes(node: Any, key: str) -> Iterator[Any]:
    """Every value under a key, anywhere below a node."""
    if isinstance(node, list):
        for item in node:
            yield from nodes(item, key)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from nodes(value, key)


def ray_object(overlay: str) -> Manifest:
    (manifest,) = [m for m in rendered(overlay) if m["kind"] in ("RayCluster", "RayJob")]
    return manifest


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_runs_the_image_of_this_version(overlay: str) -> None:
    images = {container["image"] for container in containers(ray_object(overlay))}
    assert images == {f"pipeline:{__version__}-{VARIANTS[overlay.partition('/')[0]]}"}


def test_servers_run_the_image_of_this_version() -> None:
    for kind, name in (("Deployment", "mlflow"), ("CronJob", "bucket-care")):
        (container,) = containers(one(rendered("gpu"), kind, name))
        assert container["image"] == f"pipeline:{__version__}-cpu"


def test_databases_and_object_stores_are_those_of_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    images = {container["image"] for container in containers(rendered("local"))}
    assert {services["postgres"]["image"], services["s3"]["image"]} <= images


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_ray_version_is_the_pinned_one(overlay: str) -> None:
    (pinned,) = re.findall(r"^ray\[.*\]==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    spec = cluster_spec(ray_object(overlay))
    assert spec is not None
    assert spec["rayVersion"] == pinned


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_start_parameters_are_options_of_the_installed_ray(overlay: str) -> None:
    from ray.scripts import scripts

    options = {name.removeprefix("--") for option in scripts.start.params for name in option.opts}
    spec = cluster_spec(ray_object(overlay))
    assert spec is not None
    for _, group in groups(spec):
        assert set(group["rayStartParams"]) - options == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_fixed_ports_differ_and_lie_outside_the_range_of_workers(overlay: str) -> None:
    spec = cluster_spec(ray_object(overlay))
    assert spec is not None
    for _, group in groups(spec):
        ports = {name: int(value) for name, value in group["rayStartParams"].items() if name.endswith("port")}
        low, high = ports.pop("min-worker-port"), ports.pop("max-worker-port")
        assert len(set(ports.values())) == len(ports)
        assert not [name for name, port in ports.items() if low <= port <= high]
        assert {"node-manager-port", "object-manager-port", "runtime-env-agent-port"} <= set(ports)


def test_the_entrypoint_is_a_command_of_this_version() -> None:
    python, module, package, verb, *arguments = one(rendered("gpu/job"), "RayJob")["spec"]["entrypoint"].split()
    assert (python, module, package) == ("python", "-m", "pipeline")
    assert arguments[0].startswith("/app/grids/")
    assert (ROOT / arguments[0].removeprefix("/app/")).is_file()
    local = [str(ROOT / arguments[0].removeprefix("/app/")), *arguments[1:]]
    context = cli.commands[verb].make_context(verb, local)
    assert context.params["store"] == "s3://pipeline/runs"


@pytest.mark.slow
def test_the_arguments_of_the_tracking_server_are_known() -> None:
    from mlflow.cli import cli as mlflow

    (container,) = containers(one(rendered("local"), "Deployment", "mlflow"))
    assert container["command"] == ["mlflow", "server"]
    context = mlflow.commands["server"].make_context("server", list(container["args"]))
    assert context.params["app_name"] == "basic-auth"
    assert context.params["port"] == 5000


@pytest.mark.slow
def test_the_tracking_server_answers_to_its_names_only() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (container,) = containers(one(rendered("local"), "Deployment", "mlflow"))
    (hosts,) = [a.removeprefix("--allowed-hosts=") for a in container["args"] if a.startswith("--allowed-hosts=")]
    uris = {
        entry["value"] for c in containers(ray_object("gpu")) for entry in c["env"] if entry["name"].endswith("_URI")
    }
    assert uris == {"http://mlflow:5000"}
    for host in ("mlflow:5000", "mlflow.pipeline.svc.cluster.local:5000", "localhost:5000", "127.0.0.1:15000"):
        assert is_allowed_host_header(hosts.split(","), host)
    for host in (
        "evil.example",
        "mlflow.evil.example",
        "localhost.evil.example",
        "mlflow.pipeline.svc.evil.example:5000",
    ):
        assert not is_allowed_host_header(hosts.split(","), host)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_name_that_a_pod_refers_to_exists(platform: str) -> None:
    platform_objects = rendered(platform)
    everything = [*platform_objects, *rendered(f"{platform}/job")]
    there = {kind: {m["metadata"]["name"] for m in platform_objects if m["kind"] == kind} for kind in (
        "ConfigMap", "ServiceAccount", "PriorityClass", "PersistentVolumeClaim")}  # fmt: skip
    for key, kind in (("serviceAccountName", "ServiceAccount"), ("priorityClassName", "PriorityClass")):
        assert set(nodes(everything, key)) <= there[kind]
    assert {claim["claimName"] for claim in nodes(everything, "persistentVolumeClaim")} <= there[
        "PersistentVolumeClaim"
    ]
    for reference in nodes(everything, "configMapKeyRef"):
        assert reference["key"] in one(platform_objects, "ConfigMap", reference["name"])["data"]
    named = {volume["name"] for volume in nodes(everything, "configMap") if not volume.get("optional")}
    assert named <= there["ConfigMap"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_install_notes_make_every_secret_with_its_keys(platform: str) -> None:
    notes = (K8S / "README.md").read_text().replace("\\\n", " ")
    made: dict[str, set[str]] = {}
    for line in re.findall(r"create secret generic (.*)", notes):
        made[line.split()[0]] = set(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", line))
    everything = [*rendered(platform), *rendered(f"{platform}/job")]
    for reference in nodes(everything, "secretKeyRef"):
        assert reference["key"] in made[reference["name"]]
    assert {volume["secretName"] for volume in nodes(everything, "secret")} <= set(made)


def test_alerts_name_objects_that_exist() -> None:
    manifests = rendered("gpu")
    expressions = " ".join(nodes(one(manifests, "PrometheusRule"), "expr"))
    for label, kind in (("deployment", "Deployment"), ("cronjob", "CronJob")):
        names = re.findall(rf'\b{label}="([^"]+)"', expressions)
        assert names
        assert set(names) <= {m["metadata"]["name"] for m in manifests if m["kind"] == kind}
    assert set(re.findall(r'namespace="([^"]+)"', expressions)) == {"pipeline"}
    (endpoint,) = one(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"]
    for container in containers(ray_object("gpu")):
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
