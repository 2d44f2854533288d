"""A grid on three hosts with a network between them, which are killed, cut off and started again; a log of JSON lines.

    python benchmarks/host_faults.py [GRID] [--undisturbed STORE] [--keep DIR]

Hosts are network namespaces of this machine: root and iproute2 are needed. A head, two workers with one CPU each, an S3
server, MLflow and the user, who calls `pipeline submit`. Trainings have two workers, one per host. First store: a
worker host is killed in training and the other one in sampling. Second store: a worker host is cut off in training
until the cluster gives it up, and heals; the head is killed in sampling, everything is started anew and the grid
submitted again. Both stores have to equal, by the sha256 of every file, one that this machine fills alone without a
disturbance, with two workers as well: a grid of one chunk per batch has other last bits with one.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import yaml
from mlflow import MlflowClient

from pipeline.grid import load_grid
from tests.commands import contents, run
from tests.host_faults import GridOnHosts, Log, network_and_head_fail, workers_die
from tests.hosts import HostCluster

ROOT = Path(__file__).parents[1]
BLOCKS = 6


def main() -> None:
    """Fill a store undisturbed, then one per story, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", nargs="?", default=str(ROOT / "grids" / "quickstart.yaml"))
    parser.add_argument("--undisturbed", help="a store with results of the grid by two workers of this machine alone")
    parser.add_argument("--keep", help="folder for the outputs of `submit`")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    two_workers = load_grid(arguments.grid, ("experiment.train.workers=2", "experiment.train.checkpoint_interval_s=2"))
    grid = folder / "grid.yaml"
    grid.write_text(yaml.safe_dump(two_workers.model_copy(update={"base": None}).model_dump(mode="json")))
    undisturbed = arguments.undisturbed or str(folder / "undisturbed")
    log = Log(lambda line: print(line, flush=True))
    alone = run("run", str(grid), "--store", undisturbed, "--tracking", "none", timeout_s=7200)
    assert alone.code == 0, alone.output
    log.tell("this machine alone is done")

    cluster = HostCluster()
    try:
        database = cluster.folder / "mlflow.db"
        MlflowClient(f"sqlite:///{database}").search_experiments()
        cluster.start(database)
        log.tell("three hosts are up")
        for name, story in (("killed", workers_die), ("cut", network_and_head_fail)):
            told = GridOnHosts(cluster, grid, folder, name, log)
            told.make_bucket()
            story(told, blocks=BLOCKS)
            told.compare(contents(undisturbed))
    finally:
        if arguments.keep:
            Path(arguments.keep).mkdir(parents=True, exist_ok=True)
            for output in cluster.folder.glob("*.log"):
                shutil.copy(output, arguments.keep)
        cluster.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
