"""Damaged artifacts are noticed, put aside and made again by repeating the command; blocks may come in any order."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.grid import make_plan
from pipeline.grid.plan import Plan
from pipeline.grid.spec import load_grid
from pipeline.grid.tasks import execute
from pipeline.store import Key, Store, open_store, verify
from pipeline.store.layout import attempt_prefix, manifest_key
from tests.commands import contents
from tests.grid_doubles import CommandLine
from tests.grids import tiny_grid

SMALL: dict[str, Any] = {
    "grid": [{"baseline": "ddpm"}],
    "evaluate": {"num_images": 40, "block_images": 10, "batch_images": 10, "nll_images": 20, "nll_block_images": 10},
}
NUM_BLOCKS = 4


def plan_of(grid: Path) -> Plan:
    return make_plan(load_grid(str(grid)))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    return CommandLine(capsys, monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Grid file and finished store; tests work on copies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    grid = tiny_grid(folder, **SMALL)
    store = open_store(folder / "store", cache=folder / "cache")
    for task in plan_of(grid).tasks.values():
        execute(task, store)
    return grid, folder / "store"


@pytest.fixture
def copy(undisturbed: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same grid with a finished store that may be damaged."""
    grid, store = undisturbed
    shutil.copytree(store, tmp_path / "store")
    return grid, tmp_path / "store"


def file_of(store: Store, key: Key, name: str = "") -> Path:
    """A file of an artifact, the largest one unless it is named."""
    artifact = store.find(key)
    assert artifact is not None
    name = name or max(artifact.files, key=lambda name: artifact.files[name].size)
    path = store.objects.backend.local_path(attempt_prefix(key, artifact.attempt) + name)
    assert path is not None
    return path


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    path.chmod(0o644)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


def forget(store: Store, keys: set[Key]) -> None:
    """Remove manifests, so that the artifacts have to be made again."""
    for key in keys:
        store.objects.delete(manifest_key(key))


def users_of(plan: Plan, key: Key) -> set[Key]:
    """Everything that was made from an artifact."""
    found = {key}
    for task in plan.tasks.values():  # inputs come before their users
        if found & set(task.inputs.values()):
            found.add(task.key)
    return found - {key}


def key_of_stage(plan: Plan, stage: str) -> Key:
    """The first artifact of a stage, for `train` that of the row's own model."""
    tasks = plan.cells[0].tasks
    return (
        tasks.training.key if stage == "train" and tasks.training else next(k for k in plan.tasks if k.stage == stage)
    )


@pytest.mark.parametrize("stage", ["ingest", "statistics", "train", "sample", "features", "likelihood"])
def test_a_damaged_input_is_put_aside_and_made_again_within_the_run(
    stage: str, command: CommandLine, copy: tuple[Path, Path], undisturbed: tuple[Path, Path]
) -> None:
    grid, folder = copy
    store, plan = open_store(folder), plan_of(grid)
    damaged = key_of_stage(plan, stage)
    flip(file_of(store, damaged))
    forget(store, users_of(plan, damaged))
    called = command("run", str(grid), "--store", str(folder), "--tracking", "none")
    assert called.code == 0, called
    assert "event=quarantine" in called.err, "damage is never mended in silence"
    assert f"{stage} 1" in called.out.split("stages executed: ")[1]
    assert len(list((folder / "quarantine").rglob("manifest.json-*"))) == 1
    assert contents(str(folder)) == contents(str(undisturbed[1]))
    assert verify(store) == []


@pytest.mark.parametrize(("stage", "name"), [("result", "result.json"), ("sample", "preview.png")])
def test_damage_that_only_the_driver_reads_is_mended_by_repeating_the_command(
    stage: str, name: str, command: CommandLine, copy: tuple[Path, Path], undisturbed: tuple[Path, Path]
) -> None:
    grid, folder = copy
    store = open_store(folder)
    flip(file_of(store, key_of_stage(plan_of(grid), stage), name))
    first = command("run", str(grid), "--store", str(folder), "--tracking", "none")
    assert first.code == 3
    assert "was promised; repeat the command to make it again" in first.err
    second = command("run", str(grid), "--store", str(folder), "--tracking", "none")
    assert second.code == 0, second
    assert f"stages executed: {stage} 1\n" in second.out
    assert contents(str(folder)) == contents(str(undisturbed[1]))
    assert verify(store) == []


def test_what_verify_puts_aside_is_made_again_by_the_next_run(
    command: CommandLine, copy: tuple[Path, Path], undisturbed: tuple[Path, Path]
) -> None:
    grid, folder = copy
    damaged = key_of_stage(plan_of(grid), "sample")
    flip(file_of(open_store(folder), damaged))
    assert command("verify", "--store", str(folder)).code == 3
    assert command("verify", "--store", str(folder), "--repair").code == 0
    assert open_store(folder).find(damaged) is None
    called = command("run", str(grid), "--store", str(folder), "--tracking", "none")
    assert called.code == 0, called
    assert "stages executed: sample 1\n" in called.out
    checked = command("verify", "--store", str(folder))
    assert (checked.code, "0 problems" in checked.out) == (0, True), checked
    assert contents(str(folder)) == contents(str(undisturbed[1]))


def test_blocks_in_reverse_order_are_bit_equal(copy: tuple[Path, Path], undisturbed: tuple[Path, Path]) -> None:
    grid, folder = copy
    store, tasks = open_store(folder), plan_of(grid).cells[0].tasks
    blocks = [*tasks.samples, *tasks.likelihoods]
    forget(store, {task.key for task in blocks})
    for task in reversed(blocks):
        execute(task, store)
    assert len(tasks.samples) == NUM_BLOCKS
    assert contents(str(folder)) == contents(str(undisturbed[1]))
