"""A small grid of cold and variational models through all stages in this process: rows, reasons, studies, figures."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Document
from pipeline.evaluate.comparison import Result
from pipeline.grid import make_plan
from pipeline.grid.figures import write_figures
from pipeline.grid.plan import Plan
from pipeline.grid.records import finished_rows, result_record
from pipeline.grid.spec import grid_from
from pipeline.grid.tasks import execute
from pipeline.store import Store, open_store
from tests.grids import TINY, merged

BLOCKS: list[dict[str, Any]] = [
    {"baseline": "ihdm", "degradation": "blur", "num_levels": 4, "noise": 0.1},
    {"baseline": "cold", "degradation": ["pixelate_nearest", "fade"], "num_levels": 4, "noise": 0.1},
    {"baseline": "vcd", "degradation": "pixelate", "num_levels": 4, "latent_dim": 3, "teacher_from": 2},
    {"baseline": "ddpm", "degradation": "blurring"},
    {"baseline": "mean_image"},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    changes = {
        "grid": BLOCKS,
        "evaluate": {
            "metrics": ["fd_clf", "diversity", "nll"],
            "nll_images": 20,
            "nll_block_images": 20,
            "samplers": {"ddpm": [{"kind": "ddim", "steps": 3}]},
            "studies": ["forward", {"kind": "sequence", "num_images": 3}, {"kind": "exchange", "num_images": 4}],
        },
    }
    plan = make_plan(grid_from(Document(merged(TINY, changes), source="grid.yaml")))
    store = open_store(str(tmp_path_factory.mktemp("cold") / "store"))
    for task in plan.tasks.values():
        execute(task, store)
    return plan, store


def row_of(finished: tuple[Plan, Store], start: str) -> dict[str, Any]:
    plan, store = finished
    (cell,) = (cell for cell in plan.cells if cell.name.startswith(start))
    artifact = store.find(cell.key)
    assert artifact is not None
    return dict(Result.read(artifact).row)


def test_nothing_is_left_to_do(finished: tuple[Plan, Store]) -> None:
    plan, store = finished
    assert plan.missing(store) == {}


def test_inverse_heat_has_its_bound_and_the_others_their_reason(finished: tuple[Plan, Store]) -> None:
    ihdm = row_of(finished, "ihdm")
    assert ihdm["metrics"]["nll_bpd"] > 0
    assert ihdm["protocol"]["nll"]["kind"] == "ihdm_bound"
    assert row_of(finished, "ddpm")["protocol"]["nll"]["kind"] == "ode"
    for start in ("cold/pixelate_nearest", "cold/fade", "vcd", "mean_image"):
        row = row_of(finished, start)
        assert "nll_bpd" not in row["metrics"]
        assert "dens" in row["reasons"]["nll_bpd"] or "likelihood" in row["reasons"]["nll_bpd"]


def test_the_mean_image_has_no_diversity_and_models_have_some(finished: tuple[Plan, Store]) -> None:
    assert row_of(finished, "mean_image")["metrics"]["pairwise_ratio"] == 0.0
    for start in ("ihdm", "cold/pixelate_nearest", "cold/fade", "vcd", "ddpm"):
        assert row_of(finished, start)["metrics"]["pairwise_ratio"] > 0.01


def test_starts_are_fitted_where_images_end_flat_and_taken_from_training_images_elsewhere(
    finished: tuple[Plan, Store],
) -> None:
    plan, store = finished
    kinds: dict[str, str | None] = {}
    for cell in plan.cells:
        fit = None if cell.tasks.terminal is None else store.find(cell.tasks.terminal.key)
        kinds[cell.name.split("/")[0] + "/" + str(cell.params.get("degradation"))] = fit and fit.meta["kind"]
    assert kinds["ihdm/blur"] is None
    assert kinds["vcd/pixelate"] == "flat_colour"
    assert kinds["cold/fade"] == "zeros"
    assert kinds["ddpm/blurring"] is None


def test_studies_apply_to_whom_they_mean_something_and_their_figures_become_files(
    finished: tuple[Plan, Store], tmp_path: Path
) -> None:
    plan, store = finished
    files = {str(path.relative_to(tmp_path)) for path in write_figures(plan, store, tmp_path)}
    exchanges = [name for name in files if "exchange-" in name]
    assert exchanges
    assert all(name.startswith("vcd") for name in exchanges)
    assert sum(name.endswith("sequence-sheet.png") for name in files) == 5
    assert sum(name.endswith("samples.png") for name in files) == 6
    vcd = next(row for row in finished_rows(plan, store) if row.cell.name.startswith("vcd"))
    assert {"samples.png", "exchange-sheet.png", "exchange-study.json"} <= set(
        result_record(plan, vcd, store).artifacts
    )
