"""SIGKILL for the driver in training and again in sampling, then the same command; one JSON line for each.

    python benchmarks/kill_and_resume.py [--folder DIR]

Three models of digits on two CPUs, a checkpoint every 100 of 1500 steps, four blocks of images each. The store has to
end equal, by the sha256 of every file, to the one of a run that nobody disturbed. A killed training does the steps
after its last checkpoint again, a killed block starts anew: what the later commands say they made is all that was.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.grid import load_grid, make_plan
from pipeline.grid.status import training_reports
from pipeline.store import open_store
from tests.commands import contents, kill, run, start, wait_until

GRID: dict[str, Any] = {
    "name": "kill-and-resume",
    "experiment": {
        "dataset": "digits",
        "network": {"kind": "mlp", "width": 128, "depth": 3},
        "train": {"steps": 1500, "batch": 128, "lr": 1e-3, "checkpoint_steps": 100, "log_every_s": 0.05},
    },
    "grid": [
        {"baseline": "ddpm", "schedule": ["cosine", "linear_beta"]},
        {"baseline": "gud", "softness_a": 0.5},
        {"baseline": "gaussian"},
    ],
    "evaluate": {
        "num_images": 1000,
        "block_images": 250,
        "samplers": {name: {"kind": "ddim", "steps": 50} for name in ("ddpm", "gud")},
        "metrics": ["fd_clf", "kid", "nll"],
        "likelihood": {"kind": "ode", "steps": 16},
        "feature_net": {"train": {"steps": 300, "batch": 128, "lr": 1e-3}},
    },
}


def main() -> None:
    """Run undisturbed, then killed twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    grid = folder / "grid.yaml"
    grid.write_text(yaml.safe_dump(GRID, sort_keys=False))
    plan = make_plan(load_grid(str(grid)))
    undisturbed, disturbed = str(folder / "undisturbed"), str(folder / "disturbed")
    assert run("run", str(grid), "--store", undisturbed, "--tracking", "none").code == 0

    store = open_store(disturbed)
    command = ("run", str(grid), "--store", disturbed, "--tracking", "none")

    def reports() -> dict[str, tuple[int, int]]:
        """Step and start step of every training that is under way."""
        running = [task.key for task in plan.trainings if store.find(task.key) is None]
        found = training_reports(store, plan.grid.name, running)
        return {plan.tasks[key].label: (report["step"], report["start_step"]) for key, report in found.items()}

    def finished() -> dict[str, int]:
        return dict(Counter(key.stage for key in list(store.keys())))

    process = start(*command)
    wait_until(lambda: any(step >= 450 for step, _ in reports().values()), 300, process)
    kill(process)
    last = {label: step for label, (step, _) in reports().items()}
    print(json.dumps({"killed": "training", "finished": finished(), "last_reported_steps": last}))

    process = start(*command)
    continued: dict[str, int] = {}

    def is_sampling() -> bool:
        continued.update({label: begun for label, (_, begun) in reports().items() if begun})
        return finished().get("sample", 0) >= 5

    wait_until(is_sampling, 300, process)
    kill(process)
    print(json.dumps({"killed": "sampling", "finished": finished(), "continued_from": continued}))

    before = finished()
    assert run(*command).code == 0
    after = finished()
    made = {stage: count - before.get(stage, 0) for stage, count in after.items() if count > before.get(stage, 0)}
    is_equal = contents(disturbed) == contents(undisturbed)
    print(json.dumps({"third_command_made": made, "artifacts": sum(after.values()), "equal_to_undisturbed": is_equal}))
    assert is_equal


if __name__ == "__main__":
    main()
