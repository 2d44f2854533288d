"""One grid submitted to a real Ray cluster, with its store on S3 and a tracking server, ends in a sorted page.

PIPELINE_SUBMIT_GRID names another grid file to submit, PIPELINE_PICTURES a folder that keeps the picture of the page.
"""

import os
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.grid import load_grid, make_plan
from tests.browser import need_browser, page_dom, page_picture, table_rows
from tests.mlflow_server import MlflowServer
from tests.ray_cluster import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]
ROOT = Path(__file__).resolve().parents[2]
GRID = """
name: cluster
experiment:
  dataset: digits
  network: {kind: mlp, width: 32, depth: 2}
  train: {steps: 40, batch: 64}
grid:
  - {baseline: ddpm, schedule: cosine, prediction: eps}
  - {baseline: [gaussian, test_split]}
evaluate:
  num_images: 360
  block_images: 180
  samplers: {ddpm: [{kind: ddim, steps: 4}]}
  metrics: [fd_clf]
  batch_images: 180
  feature_net: {train: {steps: 60, batch: 64}}
"""


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    """What is uploaded with the job: the package and the grid, nothing that was built here."""
    folder = tmp_path / "job"
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    given = os.environ.get("PIPELINE_SUBMIT_GRID")
    (folder / "cluster.yaml").write_text(Path(given).read_text() if given else GRID)
    return folder


def test_submitted_grid_ends_in_the_sorted_page(
    working_dir: Path, s3_url: str, mlflow_server: MlflowServer, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    plan = make_plan(load_grid(str(working_dir / "cluster.yaml")))
    cells = {cell.name for cell in plan.cells}
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    command = ("python", "-m", "pipeline", "run", "cluster.yaml", "--store", s3_url, "--tracking", mlflow_server.uri)
    first = ray_cluster.submit(*command, working_dir=working_dir, submission_id="grid-1", env=env, timeout_s=1500)
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-2000:]
    assert ray_cluster.job_status("grid-1") == "SUCCEEDED"
    link = next(line.split()[-1] for line in first.stdout.splitlines() if "viewStateShareKey" in line)

    client = MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name(plan.grid.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'result'")
    assert {run.info.run_name for run in runs} == cells
    assert all(run.info.status == "FINISHED" for run in runs)

    again = ray_cluster.submit(*command, working_dir=working_dir, submission_id="grid-2", env=env, timeout_s=300)
    assert again.returncode == 0, again.stdout[-4000:]
    assert len(client.search_runs([experiment.experiment_id], "tags.kind = 'result'")) == len(cells)

    need_browser()
    shown = [float(row["metrics.`fd_clf_digits`"]) for row in table_rows(page_dom(link, tmp_path))]
    assert shown == sorted(shown)
    assert len(shown) == len(cells)
    page_picture(link, Path(os.environ.get("PIPELINE_PICTURES", tmp_path)) / "cluster.png")
