"""Every rendered object against its schema, unknown keys as errors, and eight mistakes that have to be found.

KUBERAY_CRDS names a folder with KubeRay's CRDs (helm-chart/kuberay-operator/crds/ray.io_*.yaml of release 1.7.0, each
with gzip); without it the tests that need them are skipped. No schema of the Prometheus operator is at hand: the keys
of its two objects are listed here.
"""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.grid import load_grid
from pipeline.grid.submit import Submission
from pipeline.grid.submit_kuberay import KubeRayJobs
from tests.k8s_kustomize import K8S, OVERLAYS, PLATFORMS, ROOT, Manifest, one, rendered
from tests.k8s_operator import groups, operator_errors
from tests.k8s_policy import TEMPLATES, pods, violations
from tests.k8s_schema import crd_folder, pod_template_errors, schema_errors

needs_crds = pytest.mark.skipif(crd_folder() is None, reason="KUBERAY_CRDS does not name the folder of KubeRay's CRDs")
RAY = ("RayCluster", "RayJob")
KUBERNETES = "1.33"
PROMETHEUS = {
    "PodMonitor": {"selector", "podTargetLabels", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
}


def problems(manifest: Manifest) -> list[str]:
    """All that is wrong with a Ray object: by the schema of the kind it should be, else by the operator's rules."""
    expected = "RayJob" if "entrypoint" in manifest["spec"] else "RayCluster"
    return schema_errors(manifest, expected) or operator_errors(manifest)


@needs_crds
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_objects_have_no_schema_error_and_break_no_operator_rule(overlay: str) -> None:
    found = [manifest for manifest in rendered(overlay) if manifest["kind"] in RAY]
    assert [manifest["kind"] for manifest in found] == (["RayJob"] if overlay.endswith("job") else ["RayCluster"])
    assert [problems(manifest) for manifest in found] == [[]]


@pytest.mark.parametrize("overlay", PLATFORMS)
def test_core_objects_have_no_schema_error(overlay: str) -> None:
    core = [manifest for manifest in rendered(overlay) if manifest["kind"] not in (*RAY, *PROMETHEUS)]
    assert len(core) > 20
    for manifest in core:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@needs_crds
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pod_templates_have_no_schema_error(overlay: str) -> None:
    for name, template in pods(rendered(overlay)):
        assert pod_template_errors(template) == [], name


def test_an_unknown_key_of_a_core_object_is_an_error() -> None:
    mlflow = copy.deepcopy(one(rendered("local"), "Deployment", "mlflow"))
    mlflow["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(mlflow, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", ["gpu", "spot"])
def test_prometheus_objects_hold_known_keys_only(overlay: str) -> None:
    found = [manifest for manifest in rendered(overlay) if manifest["kind"] in PROMETHEUS]
    assert {manifest["kind"] for manifest in found} == set(PROMETHEUS)
    for manifest in found:
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(manifest["spec"]) == PROMETHEUS[manifest["kind"]]
        for group in manifest["spec"].get("groups", []):
            assert set(group) == {"name", "rules"}
            for rule in group["rules"]:
                assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
                assert rule["labels"]["severity"] in ("warning", "critical")
                assert set(rule["annotations"]) == {"summary", "action"}


def _head(job: Manifest) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


MISTAKES: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "spec key": (lambda job: job["spec"].update(backOffLimit=2), "backOffLimit"),
    "container key": (lambda job: _head(job)["containers"][0].update(volumeMount=[]), "volumeMount"),
    "securityContext key": (
        lambda job: _head(job)["containers"][0]["securityContext"].update(allowPrivilegedEscalation=False),
        "allowPrivilegedEscalation",
    ),
    "metadata key": (lambda job: job["metadata"].update(label={"a": "b"}), "label"),
    "kind": (lambda job: job.update(kind="RayJobs"), "kind"),
    "submissionMode": (lambda job: job["spec"].update(submissionMode="K8SJobMode"), "submissionMode"),
    "quantity 16GB": (
        lambda job: _head(job)["containers"][0]["resources"]["limits"].update(memory="16GB"),
        "16GB",
    ),
    "TTL without shutdown": (lambda job: job["spec"].update(shutdownAfterJobFinishes=False), "ttlSecondsAfterFinished"),
}


@needs_crds
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(mistake: str) -> None:
    plant, word = MISTAKES[mistake]
    job = copy.deepcopy(one(rendered("gpu/job"), "RayJob"))
    plant(job)
    found = problems(job)
    assert len(found) == 1
    assert word in found[0]


@needs_crds
@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_submit_sends_is_as_good_as_its_template(platform: str, tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(yaml.safe_dump_all(rendered(f"{platform}/job")))
    submission = Submission(load_grid(str(ROOT / "grids" / "quickstart.yaml")), "quickstart.yaml", "s3://pipeline/runs")
    config_map, job = json.loads(json.dumps(KubeRayJobs(str(template)).documents(submission, 12)))
    kubernetes_validate.validate(config_map, KUBERNETES, strict=True)
    assert problems(job) == []
    assert {name: found for name, pod in pods([job]) if (found := violations(pod))} == {}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "pipeline"


RULES: dict[str, Callable[[Manifest], Any]] = {
    "negative TTL": lambda job: job["spec"].update(ttlSecondsAfterFinished=-1),
    "suspend without shutdown": lambda job: job["spec"].update(
        suspend=True, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0
    ),
    "no cluster": lambda job: job["spec"].pop("rayClusterSpec"),
    "retries with a cluster selector": lambda job: job["spec"].update(clusterSelector={"ray.io/cluster": "pipeline"}),
    "deadline of 0": lambda job: job["spec"].update(activeDeadlineSeconds=0),
    "sidecar with a submitter template": lambda job: job["spec"].update(submissionMode="SidecarMode"),
    "half a deletion strategy": lambda job: job["spec"].update(
        deletionStrategy={"onSuccess": {"policy": "DeleteCluster"}}
    ),
    "resources twice": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(resources={"CPU": "0"}),
    "labels among the parameters": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(
        labels="zone=a"
    ),
    "token without a Ray version": lambda job: job["spec"]["rayClusterSpec"].pop("rayVersion"),
    "gated network policy": lambda job: job["spec"]["rayClusterSpec"].update(networkPolicy={"mode": "DenyAll"}),
    "autoscaler v2 with restarts": lambda job: (
        job["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2"}),
        _head(job).update(restartPolicy="Always"),
    ),
    "name with a capital": lambda job: job["metadata"].update(name="Grid"),
    "name too long for the operator": lambda job: job["metadata"].update(name="g" * 48),
}


@pytest.mark.parametrize("rule", RULES)
def test_an_operator_rule_is_checked(rule: str) -> None:
    job = copy.deepcopy(one(rendered("gpu/job"), "RayJob"))
    assert operator_errors(job) == []
    RULES[rule](job)
    assert len(operator_errors(job)) == 1


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_grid_of_its_own_gets_the_same_cluster_as_the_long_lived_one(platform: str) -> None:
    cluster = one(rendered(platform), "RayCluster")["spec"]
    job = one(rendered(f"{platform}/job"), "RayJob")["spec"]["rayClusterSpec"]
    for group in (cluster, job):
        for _, entry in groups(group):
            assert entry["template"]["metadata"]["labels"].pop("app.kubernetes.io/component") in (
                "ray-cluster",
                "ray-job",
            )
            for constraint in entry["template"]["spec"].get("topologySpreadConstraints", []):
                constraint["labelSelector"]["matchLabels"].pop("app.kubernetes.io/component")
    assert job == cluster


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_this_renderer_and_kustomize_agree(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which contains kustomize, is not installed")
    command = ["kubectl", "kustomize", str(K8S / "overlays" / overlay)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    def in_order(manifests: list[Manifest]) -> list[Manifest]:
        return sorted(manifests, key=lambda manifest: (manifest["kind"], manifest["metadata"]["name"]))

    assert in_order(rendered(overlay)) == in_order(list(yaml.safe_load_all(result.stdout)))


def test_every_kind_with_pods_is_looked_into() -> None:
    kinds = {manifest["kind"] for overlay in OVERLAYS for manifest in rendered(overlay)}
    assert kinds & set(TEMPLATES) == {"Deployment", "StatefulSet", "CronJob"}


def test_every_file_is_used() -> None:
    used: set[str] = set()
    for path in K8S.rglob("kustomization.yaml"):
        (content,) = yaml.safe_load_all(path.read_text())
        names = [*content["resources"], *(entry["path"] for entry in content.get("patches", []))]
        used |= {str((path.parent / name).resolve().relative_to(ROOT)) for name in names}
    files = {str(path.relative_to(ROOT)) for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files - used == set()
