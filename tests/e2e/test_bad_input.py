"""Bad input and broken surroundings as a user meets them: processes of their own, Ray where work is left."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.store import open_store
from tests.bad_inputs import cut_between_members, image_tar, pictures
from tests.commands import ROOT, environment, start, wait_until
from tests.grid_doubles import Called
from tests.grids import tiny_grid
from tests.mlflow_server import MlflowServer
from tests.processes import free_port

pytestmark = pytest.mark.slow
QUICK: dict[str, Any] = {"grid": [{"baseline": "gaussian"}], "evaluate": {"metrics": ["nll"]}}


def call(*arguments: str, **extra: str) -> Called:
    """`python -m pipeline ...` to its end, with stdout and stderr apart."""
    process = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Called(process.returncode, process.stdout, process.stderr)


def unknown_key(folder: Path) -> tuple[Path, str, str]:
    grid = tiny_grid(folder, **QUICK, experiment={"train": {"lrr": 1}})
    return grid, str(folder / "store"), r"grid\.yaml:\d+: experiment\.train\.lrr: unknown key; did you mean lr\?"


def truncated_tar(folder: Path) -> tuple[Path, str, str]:
    (folder / "pictures.tar").write_bytes(cut_between_members(image_tar()))
    grid = tiny_grid(folder, **QUICK, experiment={"dataset": pictures(folder / "pictures.tar", max_train=None)})
    return grid, str(folder / "store"), r"pictures\.tar: the tar has no end mark at byte \d+; it is cut or damaged"


def unusable_store(folder: Path) -> tuple[Path, str, str]:
    (folder / "file").write_text("")
    return tiny_grid(folder, **QUICK), str(folder / "file" / "store"), r"Not a directory; .*choose another store"


@pytest.mark.parametrize("case", [unknown_key, truncated_tar, unusable_store])
def test_bad_input_is_one_sentence_and_ray_is_not_started(
    case: Callable[[Path], tuple[Path, str, str]], tmp_path: Path
) -> None:
    grid, store, sentence = case(tmp_path)
    ray_folder = tmp_path / "ray"
    ray_folder.mkdir()
    called = call("run", str(grid), "--store", store, "--tracking", "none", RAY_TMPDIR=str(ray_folder))
    assert called.code == 2, called
    assert re.search(f"^error: .*{sentence}", called.sentence)
    assert called.err.count("\n") == 1
    assert list(ray_folder.iterdir()) == []
    assert not (Path(store) / "artifacts").exists()


def test_a_picture_that_a_worker_cannot_read_costs_its_own_rows_only(tmp_path: Path) -> None:
    (tmp_path / "pictures.tar").write_bytes(image_tar(bad="test/1/17.png"))
    source = pictures(tmp_path / "pictures.tar")
    grid = tiny_grid(tmp_path, **QUICK | {"grid": [{"baseline": "gaussian", "dataset": ["digits", source]}]})
    called = call("run", str(grid), "--store", str(tmp_path / "store"), "--tracking", "none")
    assert called.code == 3, called
    (failed,) = [line for line in called.out.splitlines() if line.startswith("failed: ")]
    assert re.search(r"ingest pictures: DataError: .*pictures\.tar/test/1/17\.png: ", failed)
    assert "1 of 2 rows are not finished" in called.out
    assert "Traceback" not in called.out + called.err


def test_a_second_driver_leaves_and_tracking_that_is_down_loses_nothing(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    name = f"down-{tmp_path.name}"
    grid, store = tiny_grid(tmp_path, **QUICK, name=name), str(tmp_path / "store")
    dead = f"http://127.0.0.1:{free_port()}"
    first = start("run", str(grid), "--store", store, "--tracking", dead)
    wait_until((tmp_path / "store" / "leases" / "grids" / name).exists, 60, first)
    second = call("run", str(grid), "--store", store, "--tracking", dead)
    output, _ = first.communicate(timeout=300)
    assert second.code == 4, second
    assert re.search(rf"^error: another driver works on this grid: held by \S+:{first.pid}, ", second.sentence)
    assert first.returncode == 0, output
    (warning,) = [line for line in output.splitlines() if line.lower().startswith("warning")]
    assert f"tracking at {dead} does not work" in warning
    assert "1 records are kept in the outbox" in warning
    documents = open_store(store).documents(f"grids/{name}")
    assert documents.list("outbox/")

    def rows() -> dict[str, dict[str, float]]:
        client = MlflowClient(mlflow_server.uri)
        experiment = client.get_experiment_by_name(name)
        found = [] if experiment is None else client.search_runs([experiment.experiment_id])
        return {str(run.info.run_id): dict(run.data.metrics) for run in found}

    assert rows() == {}
    sync = ("sync", str(grid), "--store", store, "--tracking", mlflow_server.uri)
    sent = call(*sync)
    assert (sent.code, "warning" in sent.out) == (0, False), sent
    assert documents.list("outbox/") == []
    shown = rows()
    assert [("nll_bpd" in metrics) for metrics in shown.values()] == [True]
    again = call(*sync)
    assert (again.code, again.out) == (0, sent.out)
    assert rows() == shown
