"""Several hosts on one machine, made of network namespaces: a bridge between them, and per host an address, a loopback,
a host name and a private folder in place of /tmp/ray. Needs root and iproute2; the machine's own network is untouched.
"""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.processes import Child, is_answering, wait_until
from tests.ray_cluster import OBJECT_STORE_BYTES

PRIVATE = "/tmp/ray"
CLONE_NEWNET = 0x40000000
START_S = 180.0
HEALTH = {  # notice a lost host in seconds; the defaults take half a minute
    "RAY_health_check_initial_delay_ms": "4000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


def may_build_hosts() -> bool:
    """Whether this process may make network namespaces: root, with iproute2 and unshare."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    name = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made


class Hosts:
    """`count` hosts 10.77.0.10, 10.77.0.11, ... that reach each other and nothing else."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self._prefix = f"h{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for i in range(self.count):
            name, port = self._name(i), f"port{i}"
            _ip("netns", "add", name)
            _ip("link", "add", f"net{i}", "netns", name, "type", "veth", "peer", "name", port, "netns", self._switch)
            _ip("-n", self._switch, "link", "set", port, "master", "br0")
            _ip("-n", self._switch, "link", "set", port, "up")
            _ip("-n", name, "addr", "add", f"{self.address(i)}/24", "dev", f"net{i}")
            _ip("-n", name, "link", "set", f"net{i}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            (self.folder / f"private{i}").mkdir()

    def _name(self, i: int) -> str:
        return f"{self._prefix}-{i}"

    def address(self, i: int) -> str:
        """IPv4 address of a host."""
        return f"10.77.0.{10 + i}"

    def command(self, i: int, *words: str, before: str = ":") -> list[str]:
        """The command as it has to be called to run on a host; `before` is a line of shell that prepares its mounts."""
        private = self.folder / f"private{i}"
        script = f'mkdir -p {PRIVATE} && mount --bind {private} {PRIVATE} && hostname host{i} && {before} && exec "$@"'
        enter = ["ip", "netns", "exec", self._name(i), "unshare", "--mount", "--uts", "--propagation", "private"]
        return [*enter, "sh", "-c", script, "sh", *words]

    @contextlib.contextmanager
    def inside(self, i: int) -> Iterator[None]:
        """This thread uses the network of a host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self._name(i)}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(home.fileno(), CLONE_NEWNET)

    def processes(self, i: int) -> list[int]:
        """Everything that runs on a host."""
        found = subprocess.run(["ip", "netns", "pids", self._name(i)], capture_output=True, text=True)
        return [int(line) for line in found.stdout.split()]

    def kill(self, i: int) -> None:
        """Power off: SIGKILL for everything on a host, and nothing of its private folder is left."""
        for _ in range(5):
            for pid in self.processes(i):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not self.processes(i):
                break
            time.sleep(0.1)
        private = self.folder / f"private{i}"
        shutil.rmtree(private, ignore_errors=True)
        private.mkdir(exist_ok=True)

    def add_address(self, i: int, address: str) -> None:
        """One more address of a host."""
        _ip("-n", self._name(i), "addr", "add", f"{address}/24", "dev", f"net{i}")

    def cut(self, i: int) -> None:
        """Pull the plug of a host's network."""
        _ip("-n", self._switch, "link", "set", f"port{i}", "down")

    def heal(self, i: int) -> None:
        """Put it back."""
        _ip("-n", self._switch, "link", "set", f"port{i}", "up")

    def close(self) -> None:
        """End everything on the hosts and remove them."""
        for i in range(self.count):
            self.kill(i)
        for name in [*(self._name(i) for i in range(self.count)), self._switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _ip(*arguments: str) -> None:
    reply = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if reply.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {reply.stderr.strip()}")


class HostCluster:
    """A Ray head and two workers with a token on three hosts; on a fourth an S3 server, MLflow and the user."""

    HEAD, USER = 0, 3
    WORKERS = (1, 2)

    def __init__(self) -> None:
        self.hosts = Hosts(4)
        self.folder = self.hosts.folder
        head, user = self.hosts.address(self.HEAD), self.hosts.address(self.USER)
        self.gcs, self.job_server = f"{head}:6379", f"http://{head}:8265"
        self.s3, self.mlflow = f"http://{user}:9000", f"http://{user}:5000"
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
        for name in ("PYTHONPATH", "PIPELINE_SCRATCH", "GLOO_SOCKET_IFNAME"):
            outer.pop(name, None)
        self.user_env = {
            **outer,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self.s3_env = {
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        private = {"TMPDIR": f"{PRIVATE}/tmp", "PIPELINE_CACHE_DIR": f"{PRIVATE}/cache"}
        self.host_env = {**self.user_env, **self.s3_env, **private, **HEALTH}
        self._nodes: dict[int, Child] = {}
        self._count = 0

    def start(self, mlflow_database: Path) -> None:
        """Returns when services and all three hosts are up."""
        self._start_services(mlflow_database)
        self.start_head()
        for i in self.WORKERS:
            self.start_worker(i)
        for i in self.WORKERS:
            self.wait_for_node(i)

    def _start_services(self, mlflow_database: Path) -> None:
        program = "import sys; from moto.server import main; main(sys.argv[1:])"
        self._service("s3", [sys.executable, "-u", "-c", program, "-H", "0.0.0.0", "-p", "9000"])
        host = self.mlflow.removeprefix("http://")
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{mlflow_database}"]
        command += ["--artifacts-destination", str(self.folder / "mlflow"), "--host", "0.0.0.0", "--port", "5000"]
        command += ["--workers", "1", "--allowed-hosts", host]
        server = self._service("mlflow", command, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        with self.hosts.inside(self.USER):
            for url in (f"{self.s3}/moto-api/", f"{self.mlflow}/health"):
                wait_until(lambda url=url: is_answering(url), timeout_s=START_S, what=url, child=server)

    def _service(self, name: str, command: list[str], **env: str) -> Child:
        prefixed = self.hosts.command(self.USER, *command)
        return Child(prefixed, env={**self.user_env, **env}, output=self.folder / f"{name}.log")

    def start_head(self) -> None:
        """Start the head's host and wait for its job server."""
        child = self._node(
            self.HEAD, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=true",
            "--dashboard-host=0.0.0.0", "--dashboard-port=8265",
        )  # fmt: skip
        with self.hosts.inside(self.USER):
            url = f"{self.job_server}/api/gcs_healthz"
            wait_until(lambda: is_answering(url), timeout_s=START_S, what="Ray head", child=child)

    def start_worker(self, i: int, *, before: str = ":", **env: str) -> Child:
        """Start a worker's host with one CPU; `before` prepares its mounts."""
        return self._node(i, f"--address={self.gcs}", "--num-cpus=1", before=before, **env)

    def wait_for_node(self, i: int) -> None:
        """Wait until a host has joined."""
        node = self._nodes[i]
        wait_until(lambda: "Ray runtime started" in node.output.read_text(), timeout_s=START_S, what="host", child=node)

    def _node(self, i: int, *arguments: str, before: str = ":", **env: str) -> Child:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [f"--node-ip-address={self.hosts.address(i)}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        before = f"mkdir -p {PRIVATE}/tmp && {before}"
        self._count += 1
        self._nodes[i] = Child(
            self.hosts.command(i, *command, *arguments, before=before),
            env={**self.host_env, **env},
            output=self.folder / f"host{i}-{self._count}.log",
        )
        return self._nodes[i]

    def node(self, i: int) -> Child:
        """The `ray start --block` of a host."""
        return self._nodes[i]

    def alive(self) -> set[str]:
        """Addresses of the hosts that the cluster counts on, as its head says."""
        token = Path(self.user_env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            f"{self.job_server}/api/v0/nodes?limit=100", headers={"Authorization": f"Bearer {token}"}
        )
        with self.hosts.inside(self.USER), urllib.request.urlopen(request, timeout=10) as reply:
            listed = json.load(reply)["data"]["result"]["result"]
        return {node["node_ip"] for node in listed if node["state"] == "ALIVE"}

    def user(self, *words: str, output: Path, env: Mapping[str, str] | None = None) -> Child:
        """A command of the user."""
        return Child(self.hosts.command(self.USER, *words), env={**self.user_env, **(env or {})}, output=output)

    def close(self) -> None:
        self.hosts.close()
        for child in self._nodes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(5.0)
