"""Planned rows of grids/gud_analytic_grid.yaml against gud/analytic_grid.npz: data, process and moments."""

from pathlib import Path

from benchmarks.analytic_grid import compared
from pipeline.grid import load_grid, make_plan
from pipeline.grid.tasks import execute
from pipeline.store import open_store

GRID = Path(__file__).parents[2] / "grids" / "gud_analytic_grid.yaml"
PART = (
    "grid.0.softness_a=[0, 1.6]",
    "grid.0.ordering_r=[0.25, 1]",
    "evaluate.samplers={gud: {kind: [euler, heun, ddim], steps: 10, final: state}}",
)


def test_the_grid_has_every_entry_of_the_reference_and_nothing_to_train() -> None:
    plan = make_plan(load_grid(str(GRID)))
    assert (len(plan.cells), plan.skipped, plan.merged, plan.trainings) == (1080, (), (), ())


def test_rows_without_draws_equal_the_reference(tmp_path: Path) -> None:
    plan, store = make_plan(load_grid(str(GRID), PART)), open_store(str(tmp_path))
    for task in plan.missing(store).values():
        execute(task, store)
    lines = compared(plan, store)
    assert [(line["sampler"], line["found"], line["missing"]) for line in lines] == [
        ("euler", 8, 0),
        ("heun", 8, 0),
        ("ddim", 8, 0),
    ]
    assert max(line["variance_relative_error"] for line in lines) < 1e-8
    assert max(line["frechet_error"] for line in lines) < 1e-8
    assert max(line["mean"] for line in lines) < 1e-8
