"""A Ray head really starts the way its manifest says, in namespaces of this machine instead of a container.

Read-only root with the listed mounts, the pod's user and no capability, the fixed ports, the environment. Ray runs in
its own network, mount and process namespaces, which end with the first process in them; needs root for that.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.k8s_kustomize import ROOT, rendered
from tests.k8s_operator import made_by_operator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOOLS = ("unshare", "setpriv", "ip", "mount")
ISOLATED = [
    *("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private"),
    *("sh", "-c"),
]
SCRIPT = """
set -eu
ip link set lo up
ip link add eth0 type veth peer name far
ip addr add 10.77.0.10/24 dev eth0
ip link set eth0 up
ip link set far up
ip route add default dev eth0
mount --bind "$CHECKOUT" /mnt  # both may lie below one of the mounts, or in a home that only its owner enters
mount --bind "$PYTHON_HOME" /srv
mount -t tmpfs -o mode=755 tmpfs /home
case "$PYTHON_HOME" in
  /usr*) ;;
  *) top="${PYTHON_HOME#/}" && mount -t tmpfs -o mode=755 tmpfs "/${top%%/*}" ;;
esac
mkdir -p /home/pipeline
for place in $PLACES; do
  mount -t tmpfs -o mode=1777 tmpfs "$place"
done
for pair in "/srv $PYTHON_HOME" "/mnt $CHECKOUT"; do
  mkdir -p "${pair#* }"
  mount --bind "${pair%% *}" "${pair#* }"
done
mount -o remount,bind,ro "$CHECKOUT"
mount -o remount,bind,ro /
cd /tmp
exec setpriv --reuid="$AS_USER" --regid="$AS_GROUP" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \
  "$PYTHON" -c "$PROGRAM"
"""
PROGRAM = """
import json, os, subprocess, sys, time, urllib.error, urllib.request

def status(port, path, **headers):
    try:
        request = urllib.request.Request(f"http://10.77.0.10:{port}{path}", headers=headers)
        return urllib.request.urlopen(request, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0

def is_writable(folder):
    try:
        open(os.path.join(folder, "probe"), "w").close()
    except OSError:
        return False
    return True

want = json.loads(os.environ.pop("WANTED"))
with open("/tmp/head.log", "w") as log:
    head = subprocess.Popen(want["command"], stdout=log, stderr=subprocess.STDOUT)
deadline = time.monotonic() + 150
probes = [tuple(probe) for probe in want["probes"]]
while head.poll() is None and time.monotonic() < deadline and {status(*probe) for probe in probes} != {200}:
    time.sleep(0.1)
bearer = {"Authorization": "Bearer " + os.environ["RAY_AUTH_TOKEN"]}
print(json.dumps({
    "probes": {f"{port}{path}": status(port, path) for port, path in probes},
    "jobs without the token": status(want["jobs"], "/api/jobs/"),
    "jobs with a wrong token": status(want["jobs"], "/api/jobs/", Authorization="Bearer " + "0" * 64),
    "jobs with the token": status(want["jobs"], "/api/jobs/", **bearer),
    "metrics": status(want["metrics"], "/metrics"),
    "writable": [place for place in want["places"] if is_writable(place)],
    "capabilities": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")),
    "log": open("/tmp/head.log").read()[-3000:],
}))
"""


@cache
def started() -> dict[str, Any]:
    """What was found out about a head of the local overlay; started once for all tests here."""
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip(f"needs root and {', '.join(TOOLS)} for namespaces of its own")
    (manifest,) = rendered("local/job")
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    pod = dict(made_by_operator(manifest))["head"]["spec"]
    container = pod["containers"][0]
    parameters = head["rayStartParams"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    command = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in parameters.items())]
    wanted = {
        "command": command,
        "probes": sorted({(probe["port"], probe["path"]) for probe in probes}),
        "jobs": 8265,
        "metrics": 8080,
        "places": ["/", "/etc", "/var/tmp", *mounts],
    }
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    env |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": "/home/pipeline",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "WANTED": json.dumps(wanted),
        "PROGRAM": PROGRAM,
        "PYTHON": sys.executable,
        "PYTHON_HOME": sys.base_prefix,
        "CHECKOUT": str(ROOT),
        "PLACES": " ".join(place for place in mounts if place in ("/tmp", "/dev/shm", "/home/pipeline")),
        "AS_USER": str(pod["securityContext"]["runAsUser"]),
        "AS_GROUP": str(pod["securityContext"]["runAsGroup"]),
    }
    result = subprocess.run(
        [*ISOLATED, SCRIPT], env=env, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_every_probe_answers_without_the_token() -> None:
    found = started()
    assert set(found["probes"].values()) == {200}, found["log"]


def test_the_job_port_wants_the_token() -> None:
    found = started()
    assert found["jobs without the token"] in (401, 403)
    assert found["jobs with a wrong token"] in (401, 403)
    assert found["jobs with the token"] == 200


def test_metrics_are_served_where_the_pod_monitor_looks() -> None:
    assert started()["metrics"] == 200


def test_the_head_had_no_capability_and_could_write_into_its_mounts_only() -> None:
    found = started()
    assert int(found["capabilities"], 16) == 0
    assert found["writable"] == ["/tmp", "/dev/shm", "/home/pipeline"]
