"""The report of a grid from its store: means over seeds, files, the page, and what it says without results."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataError
from pipeline.grid.plan import Plan
from pipeline.grid.report import write_report
from pipeline.grid.report_sheets import first_line, nearest_sheet
from pipeline.grid.tables import compared_rows, grid_table, grouped_rows
from pipeline.grid.tasks import execute
from pipeline.report.sheets import cell_sheet
from pipeline.shards import read_split, to_uint8
from pipeline.shards.sheets import contact_sheet, png_bytes
from pipeline.store import Store, open_store
from tests.grid_doubles import CommandLine
from tests.grids import tiny_grid
from tests.report_cases import FD, finish
from tests.unit.test_grid_plan import plan_of

VALUES = {"ddpm/cosine": 5.0, "ddpm/linear_beta": 9.0, "gud": 7.0, "gaussian": 20.0, "test_split": 1.0}


@pytest.fixture(scope="module")
def plan() -> Plan:
    blocks = [{"baseline": "gud", "basis": ["pca"], "ordering": ["variance", "level"]}]
    return plan_of(grid=[*_tiny_blocks(), *blocks], seeds=[0, 1, 2])


def _tiny_blocks() -> list[dict[str, Any]]:
    return [{"baseline": "ddpm", "schedule": ["cosine", "linear_beta"]}, {"baseline": ["gaussian", "test_split"]}]


@pytest.fixture(scope="module")
def store(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    opened = open_store(tmp_path_factory.mktemp("report") / "store")
    finish(plan, opened, VALUES)
    return opened


@pytest.fixture(scope="module")
def written(plan: Plan, store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path | str]]:
    """A folder with the report, and what was said about it."""
    folder = tmp_path_factory.mktemp("written")
    return folder, list(write_report(plan, store, folder))


def test_rows_that_differ_in_their_seed_alone_are_one_row(plan: Plan, store: Store) -> None:
    groups = grouped_rows(plan, store)
    assert [(group.name, len(group.rows)) for group in groups] == [
        ("ddpm/cosine", 3),
        ("ddpm/linear_beta", 3),
        ("gaussian", 3),
        ("test_split", 1),
        ("gud/pca/variance", 3),
    ]
    table = grid_table(plan, store)
    assert "seed" not in table.columns
    shown = {row[table.columns.index("baseline")].value: row[table.columns.index(FD)] for row in table.rows}
    assert shown["gud"].text == "7.10 ± 0.10 (3)"
    assert shown["test_split"].text == "1.00 ± 0.20"


def test_each_seed_is_a_row_of_its_own_when_asked_for(plan: Plan, store: Store) -> None:
    table = grid_table(plan, store, each_seed=True)
    assert len(table.rows) == 13
    assert "seed" in table.columns
    assert all(cell.n is None for row in table.rows for cell in row)


def test_samplers_of_one_training_stay_apart(tmp_path: Path) -> None:
    samplers = {"ddpm": [{"kind": "ddim", "steps": 3, "eta": 0.0}, {"kind": "ddim", "steps": 3, "eta": 0.5}]}
    two = plan_of(grid=[{"baseline": "ddpm"}], evaluate={"samplers": samplers}, seeds=[0, 1])
    opened = open_store(tmp_path)
    finish(two, opened, {"ddpm": 1.0})
    assert [len(group.rows) for group in grouped_rows(two, opened)] == [2, 2]
    assert len({group.name for group in grouped_rows(two, opened)}) == 2


def test_models_are_compared_over_seeds(plan: Plan, store: Store) -> None:
    rows = {row["name"]: row["comparison"][FD] for row in compared_rows(grouped_rows(plan, store), FD)}
    assert rows["ddpm/cosine"]["best"]
    assert all("p_seeds" in entry for entry in rows.values())
    assert rows["gaussian"]["significant"]
    assert not rows["test_split"]["best"]


def test_a_mean_over_fewer_seeds_than_planned_is_told(plan: Plan, tmp_path: Path) -> None:
    opened = open_store(tmp_path / "store")
    finish(plan, opened, {"ddpm/cosine/seed0": 5.0, "ddpm/cosine/seed2": 5.0})
    assert any("11 of 13 rows of single seeds are not finished" in note for note in grid_table(plan, opened).notes)
    *_, page = write_report(plan, opened, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    assert "over fewer seeds than planned" in (tmp_path / "out" / "report.html").read_text()


def test_the_report_has_its_files(written: tuple[Path, list[Path | str]]) -> None:
    folder, lines = written
    names = {path.relative_to(folder).as_posix() for path in lines if isinstance(path, Path)}
    expected = {"table.txt", "table.csv", "table.md", "table.tex", "pareto.png", "pareto.csv", "distance_nll.png"}
    expected |= {"distance_nll.csv", "slices.png", "slices.csv", "report.html", "samples/ddpm_cosine_seed2.png"}
    assert expected <= names
    assert all((folder / name).stat().st_size for name in names)
    assert [line for line in lines if isinstance(line, str)] == []
    for name in names:
        if name.endswith(".png"):
            Image.open(folder / name).verify()


def test_tables_know_both_errors(written: tuple[Path, list[Path | str]]) -> None:
    texts = {path.suffix: path.read_text() for path in written[0].glob("table.*")}
    records = csv.DictReader(io.StringIO(texts[".csv"]))
    (gud,) = (record for record in records if record["baseline"] == "gud")
    assert [round(float(gud[f"{FD}{part}"]), 3) for part in ("", "_se", "_sd", "_seeds")] == [7.1, 0.2, 0.1, 3.0]
    assert r"7.10 ± 0.10 (3) \[0.2\]" in texts[".md"]
    assert r"7.10 $\pm$ 0.10 (3) [0.2]" in texts[".tex"]
    assert "7.10 ± 0.10 (3)" in texts[".txt"]


def test_the_page_tells_reasons_protocol_skipped_combinations_and_the_grid(
    written: tuple[Path, list[Path | str]],
) -> None:
    page = (written[0] / "report.html").read_text()
    assert "images &lt;of the data&gt; have no density" in page
    assert "ab" * 32 in page
    assert "ordering level is not defined in the pca basis" in page
    assert "name: tiny" in page
    assert page.count("data:image/png;base64,") >= 3 + 2 * 5
    assert len(re.findall(r'<details id="row-', page)) == 5


def test_the_same_store_gives_the_same_bytes(
    plan: Plan, store: Store, tmp_path: Path, written: tuple[Path, list[Path | str]]
) -> None:
    for path in [line for line in write_report(plan, store, tmp_path) if isinstance(line, Path)]:
        assert path.read_bytes() == (written[0] / path.relative_to(tmp_path)).read_bytes(), path.name


def test_large_sheets_stay_beside_the_page(
    plan: Plan, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.grid.report.INLINE_BYTES", 10)
    list(write_report(plan, store, tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "All images: samples/ddpm_cosine_seed0.png" in page
    assert page.count("data:image/png;base64,") == 3 + 5


def test_a_figure_that_is_left_out_is_told(tmp_path: Path) -> None:
    single = plan_of(grid=[{"baseline": "ddpm"}], evaluate={"metrics": ["fd_clf"]})
    opened = open_store(tmp_path / "store")
    finish(single, opened, {"ddpm": 1.0})
    written = [line for line in write_report(single, opened, tmp_path / "out") if isinstance(line, str)]
    assert any(re.match(r"slices\.png is left out: no two models", line) for line in written)
    assert not (tmp_path / "out" / "slices.png").exists()


def test_without_results_there_is_no_report(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 13 rows is finished in this store; run it"):
        list(write_report(plan, open_store(tmp_path / "store"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_first_line_of_a_sheet_is_its_first_ten_images() -> None:
    images = np.random.default_rng(0).integers(0, 17, (25, 1, 8, 8), dtype=np.uint8)
    line = np.asarray(Image.open(io.BytesIO(first_line(cell_sheet(images, 17), 25, is_image=True))))
    alone = np.asarray(Image.open(io.BytesIO(cell_sheet(images[:10], 17))))
    np.testing.assert_array_equal(line, alone)
    assert first_line(b"density picture", 25, is_image=False) == b"density picture"


def test_the_nearest_training_images_stand_below_those_of_the_row(tmp_path: Path) -> None:
    single = plan_of(grid=[{"baseline": "test_split"}], evaluate={"metrics": ["fd_clf"]})
    opened = open_store(tmp_path)
    (cell,) = single.cells
    for task in (cell.tasks.dataset, cell.tasks.statistics, *cell.tasks.samples):
        execute(task, opened)
    pairs = [{"image": 41, "training": 7, "distance": 0.1}, {"image": 3, "training": 200, "distance": 0.2}]
    sheet = nearest_sheet(cell, pairs, opened)
    assert sheet is not None
    dataset, *blocks = [opened.find(task.key) for task in (cell.tasks.dataset, *cell.tasks.samples)]
    assert dataset is not None
    own = np.concatenate([read_split(block, "images").images for block in blocks if block is not None])
    images = np.concatenate([own[[41, 3]], read_split(dataset, "train").images[[7, 200]]])
    expected = png_bytes(contact_sheet(to_uint8(images, 17), num_columns=2))
    assert sheet == expected
    assert nearest_sheet(cell, [], opened) is None


@pytest.mark.slow
def test_the_verb_writes_the_report_of_a_grid_that_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = CommandLine(capsys, monkeypatch)
    grid = tiny_grid(tmp_path, seeds=[0, 1], grid=_tiny_blocks())
    where = ("--store", str(tmp_path / "store"))
    refused = command("report", str(grid), *where)
    assert refused.code == 2
    assert "none of its 7 rows is finished" in refused.sentence
    assert command("run", str(grid), *where, "--tracking", "none").code == 0
    called = command("report", str(grid), *where, "--out", str(tmp_path / "out"))
    assert called.code == 0
    assert str(tmp_path / "out" / "report.html") in called.out
    assert "(2)" in (tmp_path / "out" / "table.txt").read_text()
    each = command("table", str(grid), *where, "--each-seed", "--format", "csv")
    assert len(each.out.splitlines()) == 1 + 7
    assert len(command("table", str(grid), *where, "--format", "csv").out.splitlines()) == 1 + 4
