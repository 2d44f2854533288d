"""Points through a grid: distances of the points themselves, and what becomes of the modes of a known mixture."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import parse
from pipeline.grid import make_plan
from pipeline.grid.records import primary_metric
from pipeline.grid.spec import GridSpec
from pipeline.grid.tasks import execute
from pipeline.store import open_store

MIXTURE = {
    "kind": "gaussian_mixture",
    "name": "two_pixels",
    "weights": [0.35, 0.65],
    "means": [[-0.5, -0.5], [0.5, 0.5]],
    "variances": [[0.01, 0.01], [0.01, 0.01]],
    "num_train": 2000,
    "num_test": 500,
}


def rows_of(folder: Path, dataset: dict[str, Any]) -> dict[str, dict[str, Any]]:
    tree = {
        "name": "points",
        "experiment": {"dataset": dataset, "network": {"kind": "mlp", "width": 8, "depth": 1}},
        "grid": [{"baseline": ["gaussian", "test_split"]}],
        "evaluate": {"num_images": 500, "block_images": 250, "metrics": ["points", "nll"], "nll_images": 50},
    }
    plan = make_plan(parse(GridSpec, tree))
    assert primary_metric(plan) == "nll_bpd"
    store = open_store(str(folder))
    rows: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        for task in cell.tasks.in_order():
            artifact = execute(task, store)
        rows[cell.name] = artifact.meta
    return rows


def test_a_gaussian_misses_the_modes_that_held_out_points_fill(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, MIXTURE)
    gaussian, held_out = rows["gaussian"]["metrics"], rows["test_split"]["metrics"]
    for name in ("sliced_w2", "energy_distance", "share_beyond_4_sigma"):
        assert gaussian[name] > 2.0 * abs(held_out[name])
    assert held_out["mode_distance"] < 0.07  # three standard deviations of a share of 500
    assert gaussian["share_beyond_4_sigma"] > 0.2 > 0.01 > held_out["share_beyond_4_sigma"]
    assert rows["test_split"]["protocol"]["modes"]["weights"] == pytest.approx([0.35, 0.65])
    assert "fd_data" not in gaussian


def test_points_of_no_known_mixture_say_why_they_have_no_modes(tmp_path: Path) -> None:
    row = rows_of(tmp_path, {"kind": "gaussian", "name": "one", "variances": [1.0, 0.5]})["gaussian"]
    assert "not drawn from a mixture" in row["reasons"]["mode_distance"]
    assert row["metrics"]["sliced_w2"] < 0.2
