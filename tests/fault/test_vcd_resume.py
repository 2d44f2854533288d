"""Variational cold diffusion killed with SIGKILL: teacher, KL schedule, optimiser and draws go on where they were."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.diffusion.objectives import ENCODER, Batch
from pipeline.diffusion.objectives.variational_cold import kl_weight
from pipeline.store import Artifact, Key, Store, open_store
from pipeline.train.cells import Cell, train_cells
from pipeline.train.group import solo
from pipeline.train.spec import TrainTask
from tests import stage_cases
from tests.train_cases import CPU, cell, faulty_data, spec

TEACHER_FROM = 4
KL_ANNEALING = 9
STEPS = 12


def task(**changes: Any) -> TrainTask:
    """A rollout from black over five levels, generator with dropout; the average teaches from step 4 on."""
    schedule = {"kind": "heat", "num_levels": 5, "fade": "cosine", "noise": 0.05}
    objective = {"kind": "variational_cold", "latent_dim": 3, "beta": 0.1, "jitter": 0.02, "rollout": True}
    system = stage_cases.system(
        process={"kind": "spectral", "basis": "dct", "centre": "black", "schedule": schedule},
        prediction="x_prev",
        objective={**objective, "teacher_from": TEACHER_FROM, "kl_annealing": KL_ANNEALING},
        network={"kind": "mlp", "width": 16, "depth": 1, "dropout": 0.2},
    )
    return TrainTask(system=system, train=spec(steps=STEPS, **changes), seed=5)


def kill_this_process(batch: Batch) -> Batch:
    os.kill(os.getpid(), signal.SIGKILL)
    return batch


def train_and_die(url: str, victim: Cell, step: int) -> None:
    """Body of a child process: its death comes at the batch of `step`."""
    with faulty_data([step], kill_this_process):
        train_cells([victim], open_store(url), group=solo(), device=CPU)


def trained(store: Store, victim: Cell) -> Artifact:
    assert train_cells([victim], store, group=solo(), device=CPU) == {}
    artifact = store.find(victim.key)
    assert artifact is not None
    return artifact


def digests(artifact: Artifact) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in artifact.files.items()} | {"meta": str(dict(artifact.meta))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = open_store(tmp_path_factory.mktemp("undisturbed") / "store")
    return digests(trained(store, cell(store, task())))


@pytest.mark.parametrize(
    ("checkpoint_steps", "killed_at"),
    [(2, 3), (3, 5), (6, 8)],
    ids=["before-the-average-teaches", "over-the-switch", "after-the-switch"],
)
def test_killed_training_ends_with_the_same_files(
    tmp_path: Path, undisturbed: dict[str, str], checkpoint_steps: int, killed_at: int
) -> None:
    store = open_store(tmp_path / "store")
    victim = cell(store, task(checkpoint_steps=checkpoint_steps))
    child = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(store.url, victim, killed_at))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert store.find(victim.key) is None
    saved = store.state(*_parts(victim.key)).latest()
    assert saved is not None
    assert saved.step == killed_at // checkpoint_steps * checkpoint_steps
    resumed = trained(store, victim)
    assert {f"{ENCODER}.weights.safetensors", f"{ENCODER}.ema.safetensors"} <= set(resumed.files)
    assert digests(resumed) == undisturbed


def test_kl_weight_goes_on_at_its_step(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    victim = cell(store, task(checkpoint_steps=6))
    with faulty_data([7], _interrupt), pytest.raises(KeyboardInterrupt):
        train_cells([victim], store, group=solo(), device=CPU)
    with np.load(trained(store, victim).path("curve.npz"), allow_pickle=False) as curve:
        expected = [kl_weight(step, KL_ANNEALING) for step in range(STEPS)]
        np.testing.assert_allclose(curve["metric_kl_weight"], expected, rtol=1e-6)


def _interrupt(batch: Batch) -> Batch:
    raise KeyboardInterrupt


def _parts(key: Key) -> tuple[str, str]:
    return key.stage, key.fingerprint
