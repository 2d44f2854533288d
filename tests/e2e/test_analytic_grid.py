"""The rehearsal without training: a part of the analytic grid through Ray, against the closed recursions."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.analytic_grid import compared
from pipeline.grid import load_grid, make_plan
from pipeline.store import open_store
from tests.commands import ROOT, run

pytestmark = pytest.mark.slow

POINTS = {"prior": ["data", "standard"], "softness_a": [0.4, 1], "ordering_r": [0, 0.75]}


def small_grid(folder: Path) -> Path:
    """The grid with eight points, ten steps and few images."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "grids" / "gud_analytic_grid.yaml").read_text())
    tree["grid"][0] |= POINTS
    tree["evaluate"] |= {"num_images": 2000, "block_images": 1000, "batch_images": 500}
    tree["evaluate"]["samplers"]["gud"]["steps"] = 10
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.mark.parametrize("verb", ["run", "tune"])
def test_exact_predictors_reproduce_the_reference_without_a_training(verb: str, tmp_path: Path) -> None:
    grid, store = small_grid(tmp_path), str(tmp_path / "store")
    finished = run(verb, str(grid), "--store", store, "--tracking", "none")
    assert finished.code == 0, finished.output
    assert list(open_store(store).keys("train")) == []
    lines = {line["sampler"]: line for line in compared(make_plan(load_grid(str(grid))), open_store(store))}
    assert {name: (line["found"], line["missing"]) for name, line in lines.items()} == dict.fromkeys(
        ("euler", "heun", "ddim", "ancestral"), (8, 0)
    )
    for name in ("euler", "heun", "ddim"):
        assert lines[name]["variance_relative_error"] < 1e-8
        assert lines[name]["frechet_error"] < 1e-8
        assert lines[name]["mean"] < 1e-8
    assert lines["ancestral"]["images"] == 2000
    assert lines["ancestral"]["above_4"] == 0
    assert 0.8 < lines["ancestral"]["rms_z"] < 1.2
    again = run(verb, str(grid), "--store", store, "--tracking", "none")
    assert "stages executed: none" in again.output
