"""SIGKILL for the driver of `tune` at a third of the trials, then the same command; one JSON line each.

    python benchmarks/kill_tune.py [--grid GRID] [--store STORE] [--set A.B=C ...]

Says how many trials were finished at the kill, how many of those began again afterwards (none may), and how many the
second command executed. Without arguments: the rehearsal grid with 2000 images per row.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from pipeline.grid import load_grid, make_plan
from pipeline.grid.points import points_of
from pipeline.grid.trials import TrialLog, TrialRecord
from pipeline.store import open_store
from tests.commands import kill, run, start, wait_until

ROOT = Path(__file__).parents[1]
SMALL = ("evaluate.num_images=2000", "evaluate.block_images=1000", "evaluate.batch_images=1000")
SHARE = 1 / 3
TIMEOUT_S = 3600.0


def main() -> None:
    """Kill, continue and compare the records of the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default=None)
    parser.add_argument("--store", default=None)
    parser.add_argument("--set", action="append", default=[], help="as for `tune`")
    arguments = parser.parse_args()
    grid = arguments.grid or str(ROOT / "grids" / "gud_analytic_grid.yaml")
    overrides = tuple(arguments.set) or (() if arguments.grid else SMALL)
    url = arguments.store or tempfile.mkdtemp()
    plan = make_plan(load_grid(grid, overrides))
    total = len(points_of(plan))
    store = open_store(url)
    command = ["tune", grid, "--store", url, "--tracking", "none", *(f"--set={item}" for item in overrides)]

    def finished() -> dict[str, TrialRecord]:
        return {record.point: record for record in TrialLog(store, plan.grid.name).all() if record.finished}

    begun = time.monotonic()
    process = start(*command)
    wait_until(lambda: len(finished()) >= SHARE * total, TIMEOUT_S, process)
    kill(process)
    before = finished()
    print(json.dumps({"points": total, "finished_at_kill": len(before), "after_s": round(time.monotonic() - begun)}))

    begun = time.monotonic()
    again = run(*command, timeout_s=TIMEOUT_S)
    after = finished()
    line = {
        "exit_code": again.code,
        "finished": len(after),
        "repeated": sum(after[name] != record for name, record in before.items()),
        "begun_twice": sum(record.starts > 1 for record in after.values()),
        "after_s": round(time.monotonic() - begun),
    }
    print(json.dumps(line))
    print("\n".join(text for text in again.output.splitlines() if text.startswith(("trials executed", "trainings "))))


if __name__ == "__main__":
    main()
