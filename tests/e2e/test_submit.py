"""`submit` against a real Ray cluster with a token: attempts, attaching, exit codes, signals, kept logs, refusals."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.grid import submit_end
from pipeline.grid.status import grid_documents
from pipeline.grid.submit import read_submission
from pipeline.store import open_store
from tests import commands
from tests.grids import tiny_grid
from tests.processes import Child, running, wait_until
from tests.ray_cluster import OBJECT_STORE_BYTES, RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[str, Any] = {"grid": [{"baseline": "gaussian"}], "evaluate": {"metrics": ["nll"]}}
LONG: dict[str, Any] = {"grid": [{"baseline": "ddpm"}], "experiment": {"train": {"steps": 1_000_000}}}
RAY_ENVIRONMENT = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(scope="module")
def cluster(s3_endpoint: str) -> Iterator[RayCluster]:
    """Hosts that have the credentials of the store, as a cluster gives them; nobody sends any."""
    made = RayCluster()
    for name in [name for name in made.env if name.startswith(("AWS_", "MLFLOW_", "PIPELINE_"))]:
        del made.env[name]
    made.env |= {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-of-the-cluster",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class User:
    """Somebody with a terminal: the address, a token and no credentials of the store."""

    def __init__(self, cluster: RayCluster, working_dir: Path, store: str) -> None:
        self.cluster, self.working_dir, self.store = cluster, working_dir, store
        self.env = {name: cluster.env[name] for name in RAY_ENVIRONMENT}

    def arguments(self, grid: Path, *options: str) -> list[str]:
        place = ["--address", self.cluster.address, "--working-dir", str(self.working_dir)]
        return ["submit", str(grid), "--store", self.store, "--tracking", "none", *place, *options]

    def submit(self, grid: Path, *options: str, **env: str) -> commands.Finished:
        return commands.run(*self.arguments(grid, *options), timeout_s=300, **{**self.env, **env})

    def start(self, grid: Path, *options: str) -> "subprocess.Popen[str]":
        return commands.start(*self.arguments(grid, *options), **self.env)

    def jobs(self, stem: str) -> dict[str, str]:
        """Status by id of everything that was submitted under a stem."""
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {(self.cluster.folder / 'token').read_text()}"}
        known = JobSubmissionClient(self.cluster.address, headers=headers).list_jobs()
        return {job.submission_id: job.status.value for job in known if (job.submission_id or "").startswith(stem)}


@pytest.fixture
def user(cluster: RayCluster, working_dir: Path, s3_url: str) -> User:
    return User(cluster, working_dir, s3_url)


def stem_of(user: User, grid: Path) -> str:
    return read_submission(str(grid), store=user.store, tracking="none").stem


def kept(store: str, grid: str) -> dict[str, bytes]:
    """Copies of logs in the store, by the id of the submission and the name of the document."""
    documents = grid_documents(open_store(store), grid)
    found: dict[str, bytes] = {}
    for name in documents.list("logs/"):
        _, folder, document = name.split("/")
        content = documents.get(name)
        assert content is not None
        found[f"{folder.rpartition('-')[0]}/{document}"] = content
    return found


def test_attempts_count_logs_are_kept_and_an_id_is_taken_for_good(user: User) -> None:
    grid = tiny_grid(user.working_dir, **QUICK)
    stem = stem_of(user, grid)
    first = user.submit(grid)
    assert first.code == 0, first.output[-4000:]
    assert f"submitted {stem}-1" in first.output
    assert "nll_bpd" in first.output
    assert "logs and events of 1 hosts are kept in" in first.output

    copies = kept(user.store, "tiny")
    told = json.loads(copies[f"{stem}-1/cluster.json"])
    assert told["exit_code"] == 0
    assert [node["Alive"] for node in told["nodes"]] == [True, True]
    assert copies[f"{stem}-1/events.jsonl"].count(b"\n") > 0
    (archive,) = [content for name, content in copies.items() if name.endswith(".tar.gz")]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        driver = tar.extractfile(f"job-driver-{stem}-1.log")
        assert driver is not None
        assert b"nll_bpd" in driver.read()
        assert any(name.startswith("worker-") for name in tar.getnames())
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            assert b"test-secret-of-the-cluster" not in file.read()

    second = user.submit(grid)
    assert second.code == 0, second.output[-4000:]
    assert "none: every result was in the store" in second.output
    assert user.jobs(stem) == {f"{stem}-1": "SUCCEEDED", f"{stem}-2": "SUCCEEDED"}

    again = user.cluster.submit("true", working_dir=user.working_dir, submission_id=f"{stem}-1", timeout_s=60)
    assert again.returncode != 0
    assert f"{stem}-1 already exists" in again.stdout + again.stderr, "Ray keeps an id that ended"
    deleted = user.cluster.ray("job", "delete", "--address", user.cluster.address, f"{stem}-1", timeout_s=60)
    assert deleted.returncode == 0, deleted.stderr
    reused = user.cluster.submit("true", working_dir=user.working_dir, submission_id=f"{stem}-1", timeout_s=120)
    assert reused.returncode == 0, "only a deleted job gives its id back"


def test_the_printed_command_is_the_one_that_is_sent(user: User) -> None:
    grid = tiny_grid(user.working_dir, **QUICK, name="printed")
    printed = user.submit(grid, "--env", "PIPELINE_DATA=/data", "--dry-run").output.splitlines()[0]
    words = shlex.split(printed)
    assert words[:3] == ["ray", "job", "submit"]
    assert user.cluster.ray(*words[1:], timeout_s=120).returncode == 0
    attached = user.submit(grid, "--env", "PIPELINE_DATA=/data")
    assert attached.code == 0, attached.output[-3000:]
    stem = stem_of(user, grid)
    assert set(user.jobs(stem).values()) == {"SUCCEEDED"}
    assert f"attached to {stem}-1" in attached.output or f"submitted {stem}-2" in attached.output


def test_of_two_at_once_one_is_submitted_and_the_other_attaches(user: User) -> None:
    grid = tiny_grid(user.working_dir, **QUICK, name="twice")
    both = [user.start(grid) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    stem = stem_of(user, grid)
    assert sorted(user.jobs(stem)) == [f"{stem}-1"]
    assert sum(f"submitted {stem}-1" in output for output in outputs) == 1
    assert sum(f"attached to {stem}-1" in output for output in outputs) == 1
    assert all("nll_bpd" in output for output in outputs), "both see the table"


def test_the_drivers_exit_code_comes_back(user: User) -> None:
    source = {"kind": "idx", "name": "x", "uri": "no/where"}
    grid = tiny_grid(user.working_dir, **{**QUICK, "experiment": {"dataset": source}})
    refused = user.submit(grid, "--data", "/nowhere")
    assert refused.code == 2
    assert "/nowhere/no/where: no such file or folder" in refused.output
    assert "exit code 2" in refused.output


def test_who_submitted_stops_the_job_and_who_attached_does_not(user: User) -> None:
    grid = tiny_grid(user.working_dir, **LONG, name="stopped")
    process = user.start(grid)
    stem = stem_of(user, grid)
    documents = grid_documents(open_store(user.store), "stopped")
    commands.wait_until(lambda: documents.get("status.json") is not None, 200, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"{stem}-1 was stopped" in output
    assert user.jobs(stem) == {f"{stem}-1": "STOPPED"}
    assert "interrupted: repeat the same command to continue" in output
    assert json.loads(kept(user.store, "stopped")[f"{stem}-1/cluster.json"])["exit_code"] == 130
    assert user.submit(grid, "--cancel").output.rstrip().endswith("is live")

    assert user.submit(grid, "--no-wait").code == 0
    attached = user.start(grid)
    assert attached.stdout is not None
    wait_until(lambda: f"attached to {stem}-2" in attached.stdout.readline(), timeout_s=60, what="attaching")
    attached.send_signal(signal.SIGINT)
    output, _ = attached.communicate(timeout=60)
    assert attached.returncode == 130, output
    assert f"left {stem}-2, which goes on" in output
    assert user.jobs(stem)[f"{stem}-2"] in ("PENDING", "RUNNING"), "who attached stops nobody"
    cancelled = user.submit(grid, "--cancel")
    assert cancelled.code == 0, cancelled.output
    assert f"{stem}-2 was stopped" in cancelled.output
    assert user.jobs(stem) == {f"{stem}-1": "STOPPED", f"{stem}-2": "STOPPED"}


def test_a_head_that_goes_ends_its_grids_first_and_keeps_their_logs(user: User) -> None:
    grid = tiny_grid(user.working_dir, **LONG, name="head-goes")
    process = user.start(grid)
    documents = grid_documents(open_store(user.store), "head-goes")
    commands.wait_until(lambda: documents.get("status.json") is not None, 200, process)
    hook = [sys.executable, "-m", submit_end.__name__, user.cluster.address]
    called = subprocess.run(hook, env={**os.environ, **user.env}, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (called.returncode, called.stdout) == (0, f"{stem_of(user, grid)}-1: STOPPED\n"), called.stderr
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert json.loads(kept(user.store, "head-goes")[f"{stem_of(user, grid)}-1/cluster.json"])["exit_code"] == 130

    hook[-1] = "http://127.0.0.1:9"
    called = subprocess.run(hook, env={**os.environ, **user.env}, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert called.returncode == 0, "nothing keeps a head from going"
    assert called.stderr.startswith("warning: submissions could not be ended: ")


def test_a_wrong_token_is_one_sentence(user: User, tmp_path: Path) -> None:
    grid = tiny_grid(user.working_dir, **QUICK)
    token = tmp_path / "other"
    token.write_text("f" * 64)
    token.chmod(0o600)
    for env in ({"RAY_AUTH_TOKEN_PATH": str(token)}, {"RAY_AUTH_MODE": "disabled"}):
        called = user.submit(grid, **env)
        assert called.code == 2, called.output
        (line,) = [line for line in called.output.splitlines() if line.startswith("error: ")]
        assert "refuses the token" in line
        assert "RAY_AUTH_TOKEN_PATH" in line
        joined = commands.run(
            "run", str(grid), "--store", str(tmp_path / "store"), "--tracking", "none",
            "--address", f"127.0.0.1:{user.cluster.port}", timeout_s=200, **{**user.env, **env},
        )  # fmt: skip
        assert joined.code == 2, joined.output
        (line,) = [line for line in joined.output.splitlines() if line.startswith("error: ")]
        assert "RAY_AUTH_TOKEN_PATH" in line


def test_doctor_asks_every_host_and_says_what_a_store_is_good_for(user: User) -> None:
    called = commands.run(
        "doctor", "--store", user.store, "--address", f"127.0.0.1:{user.cluster.port}", timeout_s=200, **user.env
    )
    assert called.output.count("same versions and code, store reached, clock agrees") == 2, called.output
    assert "clocks agree" in called.output
    assert "BAD  store: a wrong secret key is refused: a listing was answered" in called.output
    assert "drivers are safe from each other here" in called.output
    assert called.code == 2


@contextmanager
def another_host(cluster: RayCluster, *prefix: str, **env: str) -> Iterator[Child]:
    """One more worker node with other variables, or started by another program; gone from the cluster at the end."""
    command = [*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    command += [f"--address=127.0.0.1:{cluster.port}", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0"]
    output = cluster.folder / "other.log"
    output.unlink(missing_ok=True)
    with running(command, env={**cluster.env, **env}, output=output) as node:
        wait_until(lambda: "Ray runtime started" in output.read_text(), timeout_s=120, what="host", child=node)
        yield node


def test_a_host_that_does_not_fit_is_told_before_any_work(user: User, tmp_path: Path, s3_endpoint: str) -> None:
    grid = tiny_grid(user.working_dir, **QUICK, name="skewed")
    old = tmp_path / "old" / "torch-1.0.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0.0\n")
    (tmp_path / "old" / "pipeline").mkdir()
    (tmp_path / "old" / "pipeline" / "__init__.py").write_text("")
    env = {"PYTHONPATH": str(old.parent), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    with another_host(user.cluster, **env):
        called = user.submit(grid)
    assert called.code == 2, called.output
    (line,) = [line for line in called.output.splitlines() if line.startswith("error: ")]
    assert "the cluster does not fit this driver" in line
    assert "has torch 1.0.0 (here" in line
    assert "cannot use the store" in line
    assert "127.0.0.1:9" in line
    assert list(open_store(user.store).keys()) == []
    assert os.environ["AWS_ENDPOINT_URL"] == s3_endpoint


def may_mount() -> bool:
    """Whether a process may have mounts of its own: for root, on Linux."""
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="a host with other code at the same path needs a mount of its own (root)")
def test_an_image_with_other_code_is_told_before_any_work(user: User, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(user.working_dir / "pipeline", old)
    with (old / "sample" / "stage.py").open("a") as file:
        file.write("# one more line\n")
    grid = tiny_grid(tmp_path, **QUICK, name="old-image")
    script = f'mount --bind {old} {ROOT / "pipeline"} && exec "$@"'
    with another_host(user.cluster, "unshare", "--mount", "sh", "-c", script, "sh"):
        called = commands.run(
            "run", str(grid), "--store", user.store, "--tracking", "none",
            "--address", f"127.0.0.1:{user.cluster.port}", timeout_s=200, **user.env,
        )  # fmt: skip
    assert called.code == 2, called.output
    (line,) = [line for line in called.output.splitlines() if line.startswith("error: ")]
    assert "has another version of the pipeline" in line
    assert list(open_store(user.store).keys()) == []
