"""A Ray cluster of two nodes on loopback: own ports, own folder, own token, ended by the sessions started here."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import Child, free_port, wait_until

OBJECT_STORE_BYTES = 200_000_000


class RayCluster:
    """Head and one worker node, each a `ray start --block` child; jobs are submitted to `address`."""

    def __init__(self, *, cpus_per_node: int = 1) -> None:
        self.cpus_per_node = cpus_per_node
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray puts unix sockets below it
        self.port = free_port()
        self.address = f"http://127.0.0.1:{free_port()}"
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env.pop("PYTHONPATH", None)  # a job sees its working directory, nothing of this checkout
        self.env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # as in an active venv
        }
        self.nodes: list[Child] = []

    def _start_node(self, name: str, *arguments: str) -> Child:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--num-cpus={self.cpus_per_node}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        child = Child([*command, *arguments], env=self.env, output=self.folder / f"{name}.log")
        self.nodes.append(child)
        return child

    def start(self) -> None:
        """Returns when both nodes are alive and the job server answers."""
        dashboard_port = self.address.rsplit(":", 1)[1]
        head = self._start_node(
            "head",
            "--head",
            f"--port={self.port}",
            f"--temp-dir={self.folder / 'session'}",
            f"--ray-client-server-port={free_port()}",
            "--include-dashboard=true",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard_port}",
        )
        wait_until(lambda: "Ray runtime started" in head.output.read_text(), timeout_s=120, what="Ray head", child=head)
        worker = self._start_node("worker", f"--address=127.0.0.1:{self.port}")
        is_up = "Ray runtime started"
        wait_until(lambda: is_up in worker.output.read_text(), timeout_s=120, what="Ray worker node", child=worker)
        wait_until(self._has_job_server, timeout_s=60, what="Ray job server", child=head)

    def _has_job_server(self) -> bool:
        return self.ray("job", "list", "--address", self.address, timeout_s=60).returncode == 0

    def ray(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """The `ray` command with this cluster's token."""
        command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )

    def submit(
        self,
        *entrypoint: str,
        working_dir: Path,
        submission_id: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a job to its end; the reply holds its output, and `job_status` says how it ended."""
        runtime_env = json.dumps({"env_vars": dict(env or {})})
        return self.ray(
            "job", "submit", "--address", self.address, "--submission-id", submission_id,
            "--working-dir", str(working_dir), "--runtime-env-json", runtime_env, "--", *entrypoint,
            timeout_s=timeout_s,
        )  # fmt: skip

    def job_status(self, submission_id: str) -> str:
        """`SUCCEEDED`, `FAILED`, ..."""
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        return str(JobSubmissionClient(self.address, headers=headers).get_job_status(submission_id).value)

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.stop(grace_s=3.0)
        self.nodes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """One cluster for the session; slow to start, so only `slow` tests ask for it."""
    cluster = RayCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
