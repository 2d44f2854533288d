"""A tiny training of the stage cases, doubles for its data, and plain gloo workers without Ray."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.baselines.system import System, SystemSpec, build_system
from pipeline.diffusion.objectives.base import Batch, Draws
from pipeline.diffusion.randomness import NoiseStream
from pipeline.shards import LabelledImages
from pipeline.store import Key, Store, fingerprint
from pipeline.train import stage
from pipeline.train.cells import Cell
from pipeline.train.data import ResidentData, TrainingData
from pipeline.train.loop import train_cell
from pipeline.train.spec import TrainSpec, TrainTask
from pipeline.train.stage import STAGE, STAGE_VERSION
from pipeline.train.state import CellState
from tests import stage_cases

CPU = torch.device("cpu")


def spec(**changes: Any) -> TrainSpec:
    """Few steps of a small batch with everything random switched on."""
    return TrainSpec(**({"steps": 12, "batch": 8, "lr": 1e-2, "flips": True} | changes))


def system(**changes: Any) -> System:
    """The stage cases' system with dropout."""
    network = {"kind": "mlp", "width": 16, "depth": 1, "dropout": 0.2}
    return built(stage_cases.system(**({"network": network} | changes)))


def built(system_spec: SystemSpec) -> System:
    return build_system(
        system_spec,
        shape=stage_cases.SHAPE,
        num_classes=stage_cases.NUM_CLASSES,
        statistics=stage_cases.train_statistics(),
    )


def samples(count: int = 60) -> LabelledImages:
    levels, labels = stage_cases.images(count)
    return LabelledImages(levels, labels, np.arange(count))


def data(train: TrainSpec, *, seed: int = 5, count: int = 60) -> ResidentData:
    return ResidentData(
        samples(count), quantisation=stage_cases.LEVELS, stream=NoiseStream(seed), spec=train, device=CPU
    )


def trained(
    train: TrainSpec, *, with_data: Callable[[TrainingData], TrainingData] = lambda d: d, **options: Any
) -> CellState:
    """The state after `train_cell` with seed 5."""
    return train_cell(
        options.pop("system", None) or system(), train, seed=5, data=with_data(data(train)), device=CPU, **options
    )


def weights(state: CellState) -> dict[str, Tensor]:
    """All weights and averages by name."""
    return {name: value for name, value in state.tensors().items() if name.startswith(("weights", "average"))}


def are_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class FaultyData:
    """Real data, except that `act` may change the batch of the steps in `at`."""

    def __init__(self, inner: TrainingData, at: Sequence[int], act: Callable[[Batch], Batch]) -> None:
        self.inner, self.at, self.act = inner, at, act
        self.asks_store = inner.asks_store

    def batch(self, draws: Draws) -> Batch:
        batch = self.inner.batch(draws)
        return self.act(batch) if draws.step in self.at else batch


def not_a_number(batch: Batch) -> Batch:
    """The batch with one NaN in its last example."""
    x_0 = batch.x_0.clone()
    x_0[-1] = torch.nan
    return replace(batch, x_0=x_0)


class MemoryStates:
    """A state store in memory."""

    def __init__(self) -> None:
        self.saved: dict[int, tuple[dict[str, bytes], dict[str, Any]]] = {}
        self.folder: Path | None = None

    def save(self, step: int, files: dict[str, Path | bytes], meta: dict[str, Any]) -> None:
        read = {name: f.read_bytes() if isinstance(f, Path) else f for name, f in files.items()}
        self.saved[step] = (read, meta)

    def latest(self) -> "MemoryState | None":
        return MemoryState(*self.saved[max(self.saved)]) if self.saved else None


class MemoryState:
    def __init__(self, files: dict[str, bytes], meta: dict[str, Any]) -> None:
        self.files, self.meta = files, meta

    def read(self, name: str) -> bytes:
        return self.files[name]


def run_workers(
    size: int, work: Callable[..., Any], folder: Path, *arguments: Any, timeout_s: float = 60.0
) -> list[Any]:
    """What `work(rank, *arguments)` returns on each rank of a gloo group of new processes.

    `work` and `arguments` are picklable; an exception of a worker fails the test with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    processes = [
        context.Process(
            target=_worker, args=(rank, size, str(folder / "rendezvous"), queue, work, arguments), daemon=True
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        answers = dict(queue.get(timeout=timeout_s) for _ in processes)
    finally:
        for process in processes:
            process.join(5.0)
            process.kill()
    failed = [text for is_fine, text in answers.values() if not is_fine]
    assert not failed, failed[0]
    return [answers[rank][1] for rank in range(size)]


def _worker(rank: int, size: int, file: str, queue: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=timedelta(seconds=30)
        )
        queue.put((rank, (True, work(rank, *arguments))))
    except BaseException:
        queue.put((rank, (False, traceback.format_exc())))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def task(**changes: Any) -> TrainTask:
    """The tiny training as a task; changes are fields of its `TrainSpec`."""
    network = {"kind": "mlp", "width": 16, "depth": 1, "dropout": 0.2}
    return TrainTask(system=stage_cases.system(network=network), train=spec(**changes), seed=5)


def cell(store: Store, train_task: TrainTask, label: str = "") -> Cell:
    """`train_task` on the stage cases' data, whose artifacts are made if they are missing."""
    inputs = {"dataset": stage_cases.dataset(store).key, "statistics": stage_cases.statistics(store).key}
    key = Key(STAGE, fingerprint(STAGE, STAGE_VERSION, train_task.identity(), inputs))
    return Cell(key, train_task, inputs, label)


@contextmanager
def faulty_data(at: Sequence[int], act: Callable[[Batch], Batch]) -> Iterator[None]:
    """Inside the block the train stage opens `FaultyData`."""
    original = stage.open_data
    stage.open_data = lambda *args, **options: FaultyData(original(*args, **options), at, act)
    try:
        yield
    finally:
        stage.open_data = original
