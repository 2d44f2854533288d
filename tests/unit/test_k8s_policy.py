"""Every container of every rendered overlay satisfies the policy, those included that only the operator makes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.grid import submit_end
from tests.k8s_kustomize import OVERLAYS, PLATFORMS, Manifest, one, rendered
from tests.k8s_operator import cluster_spec, groups, made_by_operator
from tests.k8s_policy import pods, quantity, violations

RAY_WRITES = {"/tmp", "/dev/shm", "/home/pipeline"}
CONTAINERS = {  # what has to be looked at, per overlay; a new pod must be added here
    "platform": {"ray-head", "ray-worker", "wait-gcs-ready", "mlflow", "postgres", "dump", "care"},
    "job": {"ray-head", "ray-worker", "wait-gcs-ready", "ray-job-submitter"},
}


def ray_pods(overlay: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, group and pod template of every Ray pod of an overlay."""
    (manifest,) = [m for m in rendered(overlay) if m["kind"] in ("RayCluster", "RayJob")]
    made = dict(made_by_operator(manifest))
    spec = cluster_spec(manifest)
    assert spec is not None
    return [(name, group, made[name]) for name, group in groups(spec)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_satisfies_the_policy(overlay: str) -> None:
    found = {name: violations(template) for name, template in pods(rendered(overlay))}
    assert {name: texts for name, texts in found.items() if texts} == {}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_policy_looks_at_every_container(overlay: str) -> None:
    seen = {
        container["name"]
        for _, template in pods(rendered(overlay))
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
    }
    expected = CONTAINERS["job" if overlay.endswith("job") else "platform"]
    assert seen == expected | ({"seaweedfs"} if overlay == "local" else set())


def _pod(job: Manifest) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]


def _container(job: Manifest) -> dict[str, Any]:
    return _pod(job)["containers"][0]


BREACHES: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "root": (lambda job: _pod(job)["securityContext"].update(runAsNonRoot=False), "runAsNonRoot"),
    "user 0": (lambda job: _pod(job)["securityContext"].update(runAsUser=0), "runAsUser"),
    "no seccomp": (lambda job: _pod(job)["securityContext"].pop("seccompProfile"), "seccompProfile"),
    "token": (lambda job: _pod(job).pop("automountServiceAccountToken"), "token"),
    "default account": (lambda job: _pod(job).pop("serviceAccountName"), "account"),
    "service links": (lambda job: _pod(job).pop("enableServiceLinks"), "enableServiceLinks"),
    "host network": (lambda job: _pod(job).update(hostNetwork=True), "hostNetwork"),
    "host path": (lambda job: _pod(job)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}), "hostPath"),
    "unlimited volume": (lambda job: _pod(job)["volumes"][0]["emptyDir"].clear(), "size limit"),
    "escalation": (lambda job: _container(job)["securityContext"].pop("allowPrivilegeEscalation"), "Escalation"),
    "capability": (
        lambda job: _container(job)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
        "capabilities",
    ),
    "writable root": (lambda job: _container(job)["securityContext"].pop("readOnlyRootFilesystem"), "readOnly"),
    "privileged": (lambda job: _container(job)["securityContext"].update(privileged=True), "privileged"),
    "no limits": (lambda job: _container(job)["resources"].pop("limits"), "limits"),
    "less requested": (lambda job: _container(job)["resources"]["requests"].update(memory="1Gi"), "requests"),
    "latest image": (lambda job: _container(job).update(image="pipeline:latest"), "image"),
    "plain secret": (
        lambda job: _container(job)["env"].append({"name": "S3_SECRET_KEY", "value": "abc"}),
        "S3_SECRET_KEY",
    ),
    "no place to write": (lambda job: _container(job)["volumeMounts"].pop(0), "/tmp"),
    "no submitter template": (lambda job: job["spec"].pop("submitterPodTemplate"), "runAsNonRoot"),
    "autoscaler as the operator makes it": (
        lambda job: job["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling=True),
        "autoscaler: allowPrivilegeEscalation",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_found(breach: str) -> None:
    break_it, word = BREACHES[breach]
    job = copy.deepcopy(one(rendered("gpu/job"), "RayJob"))
    break_it(job)
    found = [text for _, template in pods([job]) for text in violations(template)]
    assert any(word in text for text in found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_can_write_where_it_writes(overlay: str) -> None:
    for name, _, template in ray_pods(overlay):
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable == RAY_WRITES, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_shared_memory_holds_the_object_store_and_fits_into_the_pod(overlay: str) -> None:
    for name, group, template in ray_pods(overlay):
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        shared = volumes[mount["name"]]["emptyDir"]
        limits = pod["containers"][0]["resources"]["limits"]
        store = int(group["rayStartParams"]["object-store-memory"])
        assert shared["medium"] == "Memory", name
        assert store * 1.1 <= quantity(shared["sizeLimit"]) <= 0.4 * quantity(limits["memory"]), name
        disk = sum(quantity(v["emptyDir"]["sizeLimit"]) for n, v in volumes.items() if "emptyDir" in v and n != "shm")
        assert disk <= quantity(limits["ephemeral-storage"]), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_pods_are_probed_and_get_time_to_stop(overlay: str) -> None:
    for name, group, template in ray_pods(overlay):
        pod, container = template["spec"], template["spec"]["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            port = str(container[probe]["httpGet"]["port"])
            assert port in group["rayStartParams"].values(), f"{name} {probe}"
        *first, last = container["lifecycle"]["preStop"]["exec"]["command"][-1].split("; ")
        assert first == ([f"python -m {submit_end.__name__}"] if "head" in name else []), name
        assert last.startswith("ray stop --grace-period "), name
        seconds = int(last.rsplit(" ", 1)[1]) + (submit_end.BUDGET_S if first else 0)
        assert 120 <= seconds < pod["terminationGracePeriodSeconds"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_process_asks_for_the_token(overlay: str) -> None:
    (manifest,) = [m for m in rendered(overlay) if m["kind"] in ("RayCluster", "RayJob")]
    spec = cluster_spec(manifest)
    assert spec is not None
    assert spec["authOptions"] == {"mode": "token", "secretName": "pipeline-ray-token"}
    for name, template in made_by_operator(manifest):
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            env = {entry["name"]: entry for entry in container["env"]}
            reference = {"secretKeyRef": {"name": "pipeline-ray-token", "key": "auth_token"}}
            assert env["RAY_AUTH_MODE"]["value"] == "token", name
            assert env["RAY_AUTH_TOKEN"]["valueFrom"] == reference, name


def test_heads_hold_no_tasks_and_stay_off_spot_machines() -> None:
    for overlay in ("spot", "spot/job"):
        (head, *workers) = ray_pods(overlay)
        assert head[1]["rayStartParams"]["num-cpus"] == "0"
        terms = head[2]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = terms["nodeSelectorTerms"]
        assert {e["operator"] for e in term["matchExpressions"]} == {"NotIn", "DoesNotExist"}
        assert "tolerations" not in head[2]["spec"]
        for _, _, template in workers:
            assert any("spot" in entry["key"] for entry in template["spec"]["tolerations"])


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_quota_holds_the_platform_and_one_grid_beside_it(platform: str) -> None:
    manifests = rendered(platform)
    quota = one(manifests, "ResourceQuota")["spec"]["hard"]
    everything = list(pods([*manifests, *rendered(f"{platform}/job")]))
    workers = {name: group["replicas"] for name, group, _ in ray_pods(platform) if name != "head"}
    for resource in ("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"):
        total = 0.0
        for name, template in everything:
            limits = template["spec"]["containers"][0]["resources"]["limits"]
            total += workers.get(name.rpartition("/")[2], 1) * quantity(limits.get(resource, 0))
        assert total <= quantity(quota[f"requests.{resource}"]), resource


def test_heads_are_not_evicted_and_workers_give_way() -> None:
    manifests = rendered("gpu")
    for overlay, component in (("gpu", "ray-cluster"), ("gpu/job", "ray-job")):
        (_, _, head), *workers = ray_pods(overlay)
        labels = head["metadata"]["labels"]
        guards = [
            m["spec"] for m in manifests
            if m["kind"] == "PodDisruptionBudget" and m["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]  # fmt: skip
        assert [guard["selector"]["matchLabels"]["app.kubernetes.io/component"] for guard in guards] == [component]
        assert isinstance(guards[0]["minAvailable"], int)
        order = {m["metadata"]["name"]: m["value"] for m in manifests if m["kind"] == "PriorityClass"}
        for _, _, worker in workers:
            assert order[worker["spec"]["priorityClassName"]] < order[head["spec"]["priorityClassName"]]
    jobs = int(one(manifests, "ResourceQuota")["spec"]["hard"]["count/rayjobs.ray.io"])
    assert one(manifests, "PodDisruptionBudget", "ray-job-heads")["spec"]["minAvailable"] > jobs


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_object_holds_a_secret(platform: str) -> None:
    assert [m["metadata"]["name"] for m in rendered(platform) if m["kind"] == "Secret"] == []


def test_the_namespace_enforces_the_restricted_standard() -> None:
    labels = one(rendered("gpu"), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
