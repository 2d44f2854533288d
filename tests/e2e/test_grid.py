"""A small grid through every stage, on Ray, as a user runs it."""

from pathlib import Path

import pytest

from pipeline.store import open_store
from tests.commands import contents, kill, run, start, wait_until
from tests.grids import tiny_grid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Grid file, store and output of one undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    grid = tiny_grid(folder)
    scratch = folder / "scratch"
    scratch.mkdir()
    options = ("--store", str(folder / "store"), "--tracking", "none")
    finished = run("run", str(grid), *options, PIPELINE_SCRATCH=str(scratch))
    assert finished.code == 0, finished.output
    assert not list(scratch.iterdir())
    return grid, folder / "store", finished.output


def test_every_row_is_in_the_table_with_errors(undisturbed: tuple[Path, Path, str]) -> None:
    _, _, output = undisturbed
    assert "fd_clf_digits" in output
    assert output.count("±") >= 9
    assert "images of the data set are no model and have no density" in output


def test_the_second_run_does_nothing_and_does_not_start_ray(undisturbed: tuple[Path, Path, str]) -> None:
    grid, store, first = undisturbed
    before = contents(str(store))
    finished = run("run", str(grid), "--store", str(store), "--tracking", "none", RAY_ADDRESS="127.0.0.1:1")
    assert finished.code == 0, finished.output
    assert "stages executed: none" in finished.output
    table = first[first.index("┏") : first.index("└")]
    assert table in finished.output
    assert contents(str(store)) == before


def test_status_table_why_and_exports_read_the_store(undisturbed: tuple[Path, Path, str]) -> None:
    grid, store, _ = undisturbed
    options = (str(grid), "--store", str(store))
    assert "5 of 5 rows finished" in run("status", *options).output
    assert run("table", *options, "--format", "csv").output.startswith("baseline,")
    assert "\\begin{tabular}" in run("table", *options, "--format", "latex").output
    changed = run("why", *options, "ddpm/cosine", "--set", "experiment.train.lr=2e-3")
    assert "train.lr: 0.001 -> 0.002" in changed.output


def test_the_store_verifies_and_nothing_of_it_is_garbage(undisturbed: tuple[Path, Path, str]) -> None:
    _, store, _ = undisturbed
    checked = run("verify", "--store", str(store))
    assert (checked.code, "0 problems" in checked.output) == (0, True), checked.output
    assert (
        "would delete (--delete does it): 0 items" in run("gc", "--store", str(store), "--older-than-days", "0").output
    )


def test_a_killed_driver_is_continued_by_the_same_command(undisturbed: tuple[Path, Path, str], tmp_path: Path) -> None:
    grid, reference, _ = undisturbed
    store = tmp_path / "store"
    arguments = ("run", str(grid), "--store", str(store), "--tracking", "none")

    def has(stage: str, count: int) -> bool:
        return len(list(open_store(str(store)).keys(stage))) >= count

    for stage, count in (("train", 2), ("sample", 3)):
        process = start(*arguments)
        wait_until(lambda stage=stage, count=count: has(stage, count), 180, process)
        kill(process)
    finished = run(*arguments)
    assert finished.code == 0, finished.output
    assert contents(str(store)) == contents(str(reference))
    assert "train 4" not in finished.output.split("stages executed")[1]


def test_one_bad_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    grid = tiny_grid(
        tmp_path,
        grid=[{"baseline": "ddpm"}, {"baseline": "ddpm", "train.lr": 1e30, "train.clip_norm": None}],
        evaluate={"metrics": ["nll"]},
    )
    finished = run("run", str(grid), "--store", str(tmp_path / "store"), "--tracking", "none")
    assert finished.code == 3, finished.output
    assert "failed: " in finished.output
    assert "1 of 2 rows are not finished" in finished.output
