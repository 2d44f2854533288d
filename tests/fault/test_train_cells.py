"""Trainings that are killed, stopped, fed with NaN or impossible: what is kept, what is repeated, who notices."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.diffusion.objectives.base import Batch
from pipeline.store import Key, Store, open_store
from pipeline.train import stage
from pipeline.train.cells import Cell, train_cells
from pipeline.train.group import solo
from pipeline.train.outcome import Failure, Stopped
from pipeline.train.status import StatusBoard, read_status
from tests.train_cases import CPU, cell, faulty_data, not_a_number, task


def kill_this_process(batch: Batch) -> Batch:
    os.kill(os.getpid(), signal.SIGKILL)
    return batch


def train_and_die(url: str, victim: Cell, step: int) -> None:
    """Body of a child process: its death comes at the batch of `step`."""
    with faulty_data([step], kill_this_process):
        train_cells([victim], open_store(url), group=solo(), device=CPU)


def run_solo(store: Store, *cells: Cell, board: StatusBoard | None = None) -> dict[Key, Failure]:
    return train_cells(cells, store, group=solo(), device=CPU, board=board)


def digests(store: Store, key: Key) -> dict[str, str]:
    artifact = store.find(key)
    assert artifact is not None
    return {name: entry.sha256 for name, entry in artifact.files.items()} | {"meta": str(dict(artifact.meta))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


class TestKill:
    def test_killed_training_ends_with_the_same_files(self, store: Store, tmp_path: Path) -> None:
        victim = cell(store, task(checkpoint_steps=3))
        child = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(store.url, victim, 7))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert store.find(victim.key) is None
        saved = store.state(*_parts(victim.key)).latest()
        assert saved is not None
        assert saved.step == 6
        assert run_solo(store, victim) == {}
        undisturbed = open_store(tmp_path / "undisturbed")
        run_solo(undisturbed, cell(undisturbed, task()))
        assert digests(store, victim.key) == digests(undisturbed, victim.key)

    def test_state_is_gone_when_the_artifact_is_there(self, store: Store) -> None:
        victim = cell(store, task(checkpoint_steps=3))
        run_solo(store, victim)
        assert store.state(*_parts(victim.key)).latest() is None

    def test_a_damaged_newest_state_costs_one_interval_only(self, store: Store, tmp_path: Path) -> None:
        victim = cell(store, task(checkpoint_steps=3))
        with faulty_data([7], _interrupt), pytest.raises(KeyboardInterrupt):
            run_solo(store, victim)
        states = sorted((tmp_path / "store" / "state").rglob("tensors.safetensors"))
        assert len(states) == 2
        os.chmod(states[-1], 0o600)
        content = bytearray(states[-1].read_bytes())
        content[len(content) // 2] ^= 1
        states[-1].write_bytes(content)
        assert run_solo(open_store(tmp_path / "store", cache=tmp_path / "fresh"), victim) == {}
        undisturbed = open_store(tmp_path / "undisturbed")
        run_solo(undisturbed, cell(undisturbed, task()))
        assert digests(store, victim.key) == digests(undisturbed, victim.key)


class TestTerminate:
    def test_sigterm_saves_the_step_and_the_same_command_continues(self, store: Store, tmp_path: Path) -> None:
        victim = cell(store, task(checkpoint_interval_s=1e-9))
        inputs = {name: store.find(key) for name, key in victim.inputs.items()}
        states = store.state(*_parts(victim.key))
        handler = signal.getsignal(signal.SIGTERM)
        with (
            faulty_data([4], _terminate),
            store.attempt(victim.key, identity={}, inputs={}) as attempt,
            pytest.raises(Stopped, match="after step"),
        ):
            stage.run(victim.task, inputs, attempt, state=states)
        assert signal.getsignal(signal.SIGTERM) is handler
        saved = states.latest()
        assert saved is not None
        assert saved.step in (5, 6)
        run_solo(store, victim)
        undisturbed = open_store(tmp_path / "undisturbed")
        run_solo(undisturbed, cell(undisturbed, task()))
        assert digests(store, victim.key) == digests(undisturbed, victim.key)


class TestBadCells:
    def test_do_not_stop_the_others(self, store: Store) -> None:
        diverging = cell(store, task(lr=1e38, clip_norm=None, max_skips=1), "diverging")
        orphan = replace(cell(store, task(steps=3)), inputs={"dataset": Key("ingest", "0" * 64)})
        fine = cell(store, task(steps=4), "fine")
        failures = run_solo(store, diverging, orphan, fine)
        assert {key: failure.kind for key, failure in failures.items()} == {
            diverging.key: "Diverged",
            orphan.key: "RuntimeError",
        }
        assert "not in the store" in failures[orphan.key].message
        assert store.find(fine.key) is not None

    def test_diverged_cell_leaves_its_last_good_state(self, store: Store) -> None:
        diverging = cell(store, task(max_skips=2))
        with faulty_data(range(5, 12), not_a_number):
            failures = run_solo(store, diverging)
        assert failures[diverging.key].kind == "Diverged"
        saved = store.state(*_parts(diverging.key)).latest()
        assert saved is not None
        assert saved.meta["skips_in_row"] == 3
        assert store.find(diverging.key) is None

    def test_failures_are_remembered_when_the_group_starts_again(self, store: Store) -> None:
        board = StatusBoard(store.documents("grids/g"), "run-1")
        victim = cell(store, task(), "victim")
        with faulty_data([2], _fail):
            first = run_solo(store, victim, board=board)
        again = run_solo(store, victim, board=board)
        assert again == first
        assert again[victim.key].message == "planted"
        assert "planted" in again[victim.key].details
        board.close()

    def test_a_cell_that_takes_its_workers_down_twice_is_given_up(self, store: Store) -> None:
        board = StatusBoard(store.documents("grids/g"), "run-1")
        victim, fine = cell(store, task()), cell(store, task(steps=3))
        for _ in range(2):
            with faulty_data([2], _interrupt), pytest.raises(KeyboardInterrupt):
                run_solo(store, victim, fine, board=board)
        failures = run_solo(store, victim, fine, board=board)
        assert {key: failure.kind for key, failure in failures.items()} == {victim.key: "WorkerLost"}
        assert store.find(fine.key) is not None
        board.close()

    def test_finished_cells_are_not_trained_again(self, store: Store) -> None:
        victim = cell(store, task())
        run_solo(store, victim)
        with faulty_data(range(12), _fail):
            assert run_solo(store, victim) == {}

    def test_status_tells_how_it_ended(self, store: Store) -> None:
        documents = store.documents("grids/g")
        board = StatusBoard(documents, "run-1")
        victim = cell(store, task(), "victim")
        run_solo(store, victim, board=board)
        board.close()
        status = read_status(documents, victim.key)
        assert status is not None
        assert (status["state"], status["step"], status["steps"], status["label"]) == ("done", 12, 12, "victim")
        assert status["images_per_s"] > 0


def _parts(key: Key) -> tuple[str, str]:
    return key.stage, key.fingerprint


def _interrupt(batch: Batch) -> Batch:
    raise KeyboardInterrupt


def _fail(batch: Batch) -> Batch:
    raise ValueError("planted")


def _terminate(batch: Batch) -> Batch:
    os.kill(os.getpid(), signal.SIGTERM)
    return batch
