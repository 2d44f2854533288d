"""A cluster of three hosts with a network between them: killed and cut-off hosts leave the store as it would have been.

`benchmarks/host_faults.py` does the same with a whole grid file.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.grid.tasks import STAGES
from pipeline.store import open_store
from tests import commands
from tests.grids import tiny_grid
from tests.host_faults import GridOnHosts, Log, network_and_head_fail, workers_die
from tests.hosts import HostCluster, may_build_hosts
from tests.tune_cases import tuned_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.hosts,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not may_build_hosts(), reason="hosts are made of network namespaces: needs root and iproute2"),
]
ROOT = Path(__file__).resolve().parents[2]
GRID: dict[str, Any] = {
    "name": "hosts",
    "experiment": {"train": {"steps": 1000, "workers": 2, "checkpoint_interval_s": 1.0}},
    "grid": [{"baseline": "ddpm"}, {"baseline": "gud", "softness_a": 0.5}, {"baseline": ["gaussian", "test_split"]}],
    "evaluate": {
        "num_images": 600,
        "block_images": 50,
        "batch_images": 50,
        "samplers": {"ddpm": {"kind": "ddim", "steps": 100}, "gud": {"kind": "ddim", "steps": 100}},
    },
}
BLOCKS = 6


@pytest.fixture(scope="module")
def cluster(mlflow_template: Path) -> Iterator[HostCluster]:
    made = HostCluster()
    try:
        database = made.folder / "mlflow.db"
        shutil.copyfile(mlflow_template, database)
        made.start(database)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is uploaded with the grid: the package alone."""
    made = tmp_path_factory.mktemp("job")
    shutil.copytree(ROOT / "pipeline", made / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    tiny_grid(made, **GRID)
    return made


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, dict[str, str]]:
    """Digests of the same grid, run on this machine alone with one worker per training."""
    store = str(folder.parent / "undisturbed")
    options = ("--store", store, "--tracking", "none", "--set", "experiment.train.workers=1")
    called = commands.run("run", str(folder / "grid.yaml"), *options)
    assert called.code == 0, called.output
    return commands.contents(store)


def test_hosts_that_die_in_training_and_in_sampling_change_nothing(
    cluster: HostCluster, folder: Path, undisturbed: dict[str, dict[str, str]]
) -> None:
    log = Log(print)
    run = GridOnHosts(cluster, folder / "grid.yaml", folder, "killed", log)
    run.make_bucket()
    workers_die(run, blocks=BLOCKS)
    run.compare(undisturbed)
    assert log.told("killed: training")["hosts"] == [1, 2], "a training of two workers spans both hosts"
    assert all(step > 0 for step in log.told("killed: training goes on")["from_steps"].values())


def test_a_partition_and_a_lost_head_change_nothing(
    cluster: HostCluster, folder: Path, undisturbed: dict[str, dict[str, str]]
) -> None:
    log = Log(print)
    run = GridOnHosts(cluster, folder / "grid.yaml", folder, "cut", log)
    run.make_bucket()
    network_and_head_fail(run, blocks=BLOCKS)
    run.compare(undisturbed)
    made = {stage: n for stage, n in log.told("cut: made by the second submission").items() if stage in STAGES}
    executed = ", ".join(f"{stage} {made[stage]}" for stage in STAGES if stage in made)
    second = log.events[-3]
    assert f"stages executed: {executed}" in second["said"], "the second driver did what was missing and nothing else"


def test_trials_of_a_study_run_on_all_hosts(cluster: HostCluster, folder: Path) -> None:
    (folder / "tuned").mkdir()
    grid = tuned_file(folder / "tuned", tune={"mode": "exhaustive"})
    alone = str(folder.parent / "tuned-alone")
    called = commands.run("run", str(grid), "--store", alone, "--tracking", "none")
    assert called.code == 0, called.output
    run = GridOnHosts(cluster, grid, folder, "tuned", Log(print))
    run.make_bucket()
    child = run.submit("--verb", "tune")
    assert run.ended(child) == 0, child.output.read_text()[-4000:]
    assert "trials executed: trials 5 of 5 points" in child.output.read_text()
    run.compare(commands.contents(alone))


def test_what_does_not_fit_is_one_sentence_and_nothing_is_begun(cluster: HostCluster, folder: Path) -> None:
    run = GridOnHosts(cluster, folder / "grid.yaml", folder, "refused", Log(print))
    run.make_bucket()

    def refusal(*options: str) -> str:
        child = run.submit(*options)
        assert run.ended(child) == 2, child.output.read_text()[-4000:]
        (line,) = [line for line in child.output.read_text().splitlines() if line.startswith("error: ")]
        return line

    assert "http://10.77.0.13:9/hosts/" in refusal("--env", "AWS_ENDPOINT_URL=http://10.77.0.13:9")
    cluster.hosts.add_address(cluster.USER, "10.77.0.99")
    assert "refuses the host name of http://10.77.0.99:5000" in refusal("--tracking", "http://10.77.0.99:5000")
    cluster.hosts.kill(2)
    cluster.start_worker(2, before="mount -t tmpfs -o size=32m none /dev/shm")
    cluster.wait_for_node(2)
    try:
        assert "host2 (10.77.0.12): /dev/shm has 32 MiB free; give it more" in refusal()
        assert run.finished() == {}
    finally:
        run.kill_host(2)


def test_a_machine_without_shared_memory_is_told_so(cluster: HostCluster, folder: Path) -> None:
    words = [sys.executable, "-m", "pipeline", "run", str(folder / "grid.yaml"), "--store", str(folder / "store")]
    command = cluster.hosts.command(cluster.USER, *words, before="mount -t tmpfs -o ro none /dev/shm")
    env = {**cluster.user_env, "PYTHONPATH": str(folder)}
    called = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert called.returncode == 2, called.stderr
    assert "error: this machine: shared memory cannot be written (Read-only file system)" in called.stderr
    assert list(open_store(str(folder / "store")).keys()) == []
