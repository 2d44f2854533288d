"""The train stage: a data set and its statistics in, weights, averaged weights and a curve out."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.baselines.devices import device_for
from pipeline.baselines.system import DENOISER, System, system_for
from pipeline.diffusion.randomness import NoiseStream
from pipeline.store import Artifact
from pipeline.train.data import TrainingData, open_data
from pipeline.train.group import Group, solo
from pipeline.train.heartbeat import OnStuck
from pipeline.train.loop import train_cell
from pipeline.train.outcome import raise_together
from pipeline.train.progress import Progress, Report
from pipeline.train.spec import TrainTask
from pipeline.train.state import CellState, StateStore

STAGE = "train"
STAGE_VERSION = 1


class Folder(Protocol):
    """Where a stage writes: an attempt of the store."""

    def path(self, name: str) -> Path: ...


def run(
    spec: TrainTask,
    inputs: Mapping[str, Artifact],
    attempt: Folder,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    state: StateStore | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train one cell in this process, on the CPU or one GPU, and write its files.

    Args:
        spec: the training.
        inputs: `dataset`, and `statistics` where the process needs them.
        attempt: receives `weights.safetensors`, `ema.safetensors` and `curve.npz`.
        progress: called with (steps done, steps).
        state: resumable state; None starts at step 0 and keeps none.
        report: gets everything that is measured, rates included.

    Returns:
        The artifact's meta.

    Raises:
        Diverged, Stopped: see `train_cell`. SIGTERM stops.
    """

    def both(measured: Progress) -> None:
        progress(measured.step, measured.steps)
        if report is not None:
            report(measured)

    with stop_on_sigterm() as should_stop:
        cell = train(
            spec, inputs, device=device_for(spec.train.device), state=state, report=both, should_stop=should_stop
        )
    return write(cell, attempt)


def train(
    spec: TrainTask,
    inputs: Mapping[str, Artifact],
    *,
    device: torch.device,
    group: Group | None = None,
    state: StateStore | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_stuck: OnStuck | None = None,
) -> CellState:
    """Build the system, open the data and run the loop; every worker of `group` calls it."""
    torch.set_num_threads(spec.train.num_threads)
    group = group or solo()
    system: System | None = None
    data: TrainingData | None = None
    error: Exception | None = None
    try:
        system = system_for(spec.system, inputs["dataset"].meta, inputs.get("statistics"), seed=spec.seed)
        stream = NoiseStream(spec.seed)
        data = open_data(inputs["dataset"], spec.train, stream=stream, seed=spec.seed, device=device)
    except Exception as failure:  # reading may fail on one host only
        error = failure
    raise_together(error, group)
    assert system is not None
    assert data is not None
    return train_cell(
        system,
        spec.train,
        seed=spec.seed,
        data=data,
        device=device,
        group=group,
        state_store=state,
        report=report,
        should_stop=should_stop,
        on_stuck=on_stuck,
    )


def write(cell: CellState, attempt: Folder) -> dict[str, Any]:
    """Files and meta of a trained cell; nothing in them is measured by a clock.

    The network that predictors call is written as `weights.safetensors` and `ema.safetensors`, any other network of the
    objective with its name in front.
    """
    for name, network in cell.networks.items():
        prefix = "" if name == DENOISER else f"{name}."
        for kind, tensors in (("weights", network.state_dict()), ("ema", cell.averaged(name))):
            plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
            save_file(plain, attempt.path(f"{prefix}{kind}.safetensors"))
    np.savez(attempt.path("curve.npz"), allow_pickle=False, **cell.curve.arrays())
    losses = {name: cell.curve.last(name) for name in cell.curve.arrays() if name.startswith("loss")}
    return {
        "steps": cell.step,
        **{f"final_{name}": value for name, value in losses.items() if np.isfinite(value)},
        "num_skipped": cell.num_skipped,
        "num_parameters": sum(p.numel() for network in cell.networks.values() for p in network.parameters()),
    }


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Inside the block SIGTERM only sets a flag, which the yielded function reads; in other threads nothing changes."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)
