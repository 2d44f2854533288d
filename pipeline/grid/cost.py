"""What a grid will cost, roughly: FLOPs of its networks over a measured matrix product."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.grid.plan import Plan
from pipeline.grid.tasks import Task
from pipeline.ingest.sources.base import SourceSpec
from pipeline.sample.blocks import SampleBlock
from pipeline.store import Key
from pipeline.train.spec import TrainTask

EFFICIENCY = 0.35  # of the matrix product's rate; small networks reach less, large ones more
BACKWARD = 3.0  # forward and backward in units of a forward
USUAL_LOG_SNR_RANGE = 20.0  # of a schedule from data to prior
SECONDS_PER_CALL = 2e-3  # what a network call costs beside its arithmetic


@dataclass(frozen=True)
class Cost:
    """Work that is still to be done.

    Attributes:
        num_trainings: models to train.
        num_images: images to draw.
        train_hours: core hours of training.
        sample_hours: core hours of sampling.
        train_flops, sample_flops: floating point operations of the networks, for an estimate on other devices.
        gflops: measured rate of one core's float32 matrix product.
    """

    num_trainings: int
    num_images: int
    train_hours: float
    sample_hours: float
    train_flops: float
    sample_flops: float
    gflops: float


def matmul_gflops(size: int = 512, repeats: int = 5) -> float:
    """Rate of a float32 matrix product on one core of this machine."""
    a = torch.ones(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best / 1e9 / max(torch.get_num_threads(), 1)


def forward_flops(system: SystemSpec, shape: tuple[int, ...], num_classes: int | None) -> float:
    """FLOPs of one forward pass for one image; none for an exact predictor."""
    if not system.network.is_trained:
        return 0.0
    network = system.network.build(shape, num_classes if system.class_conditional else None, prod(shape)).eval()
    x = torch.zeros(1, *shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(1), torch.zeros(1, 1), None)
    return float(counter.get_total_flops())


def _steps_of(sampler: SamplerSpec) -> int:
    """Steps of equal change of log SNR over a path of usual length; what it really is the data decide."""
    assert sampler.log_snr_step is not None
    return max(1, round(USUAL_LOG_SNR_RANGE / sampler.log_snr_step))


def estimate(plan: Plan, missing: Mapping[Key, Task]) -> Cost:
    """Cost of the tasks that are missing."""
    rate = matmul_gflops() * 1e9 * EFFICIENCY
    flops: dict[str, float] = {}
    shapes: dict[Key, tuple[tuple[int, ...], int | None]] = {}

    def per_image(system: SystemSpec, dataset: Key) -> float:
        if dataset not in shapes:
            spec = plan.tasks[dataset].spec
            assert isinstance(spec, SourceSpec)
            source = spec.opened()
            shapes[dataset] = (source.shape, None if source.class_names is None else len(source.class_names))
        name = system.network.model_dump_json() + str(shapes[dataset])
        if name not in flops:
            flops[name] = forward_flops(system, *shapes[dataset])
        return flops[name]

    train_s = sample_s = train_flops = sample_flops = 0.0
    num_images = 0
    trainings = [task for task in missing.values() if isinstance(task.spec, TrainTask) and task.spec.system.process]
    for task in trainings:
        assert isinstance(task.spec, TrainTask)
        train = task.spec.train
        work = per_image(task.spec.system, task.inputs["dataset"]) * BACKWARD * train.batch
        train_flops += train.steps * work
        train_s += train.steps * (work / rate + BACKWARD * SECONDS_PER_CALL)
    for task in missing.values():
        spec = task.spec
        if not isinstance(spec, SampleBlock):
            continue
        num_images += spec.count
        if isinstance(spec.system, SystemSpec) and spec.sampler is not None:
            steps = spec.sampler.steps or _steps_of(spec.sampler)
            calls = spec.sampler.kernel.build().nfe(steps) + (spec.sampler.final == "denoise")
            work = per_image(spec.system, task.inputs["dataset"]) * spec.count
            sample_flops += calls * work
            sample_s += calls * (work / rate + SECONDS_PER_CALL * -(-spec.count // spec.batch_shape))
    hours = (train_s / 3600, sample_s / 3600)
    return Cost(len(trainings), num_images, *hours, train_flops, sample_flops, rate / EFFICIENCY / 1e9)
