"""The grids that come along: each loads and plans, and says nothing that its baselines do not know."""

from pathlib import Path

import pytest

from pipeline.grid import load_grid, make_plan
from pipeline.grid.axes import combinations
from pipeline.grid.validity import refusal

FOLDER = Path(__file__).parents[2] / "grids"
GRIDS = sorted(FOLDER.glob("*.yaml"))
PRESETS = sorted((FOLDER / "presets").glob("*.yaml"))
SMALL = "experiment.dataset={kind: digits, name: small}"


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_plans(path: Path) -> None:
    plan = make_plan(load_grid(str(path), (SMALL,)))
    assert plan.cells
    assert plan.grid.name == path.stem.replace("_", "-")


@pytest.mark.parametrize(
    "path", [path for path in GRIDS if path.stem != "baselines_x_degradations_digits"], ids=lambda path: path.stem
)
def test_nothing_in_a_grid_is_refused(path: Path) -> None:
    assert [reason for item in combinations(load_grid(str(path)).grid) if (reason := refusal(item))] == []


def test_the_grid_of_all_baselines_lists_what_makes_no_sense() -> None:
    plan = make_plan(load_grid(str(FOLDER / "baselines_x_degradations_digits.yaml")))
    assert len(plan.skipped) == 10
    assert {label.split()[0] for label, _ in plan.skipped} == {
        "ddpm",
        "ihdm",
        "sequential",
        "variational",
        "vwd",
        "vcd",
    }
    assert {cell.params["baseline"] for cell in plan.cells} >= {
        "ihdm",
        "cold",
        "sequential",
        "variational",
        "vwd",
        "vcd",
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_the_experiment_of_a_grid(path: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"name: preset\nbase: {path}\ngrid:\n  - {{baseline: cold, num_levels: 4}}\n")
    plan = make_plan(load_grid(str(grid), (SMALL,)))
    assert len(plan.trainings) == 1
