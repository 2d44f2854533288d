"""Each combination of baseline, degradation, prediction, schedule trains and samples, or is refused in a sentence."""

import itertools
from typing import Any

import pytest
import torch

from pipeline.baselines import BASELINES
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import System, SystemSpec, build_system
from pipeline.config import parse
from pipeline.diffusion.kernels import build_kernel
from pipeline.diffusion.objectives import Batch, Draws
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes.degradations import DEGRADATIONS
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import sample, time_grid
from pipeline.diffusion.statistics import Statistics
from pipeline.grid.axes import combinations
from pipeline.grid.validity import refusal

SHAPE = (3, 16, 16)
ROWS = 4
TRAINED = [name for name, baseline in BASELINES.items() if baseline.system is not None]
PREDICTIONS = ("eps", "x0", "v", "x_prev")
SCHEDULES: tuple[Any, ...] = (None, "linear", "cosine", "sigmoid", {"kind": "gud", "softness_a": 0.5})
LEVELS = 4


def images() -> torch.Tensor:
    return 2 * torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


def statistics_for(basis: str) -> Statistics:
    return Statistics.of(2 * torch.rand(1000, *SHAPE, generator=torch.Generator().manual_seed(1)) - 1, basis)


STATISTICS = {basis: statistics_for(basis) for basis in ("pixel", "dct", "fourier", "haar", "pca")}


def blocks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for baseline, degradation, prediction, schedule in itertools.product(TRAINED, DEGRADATIONS, PREDICTIONS, SCHEDULES):
        block = {"baseline": baseline, "degradation": degradation, "prediction": prediction}
        if schedule is not None:
            block["schedule"] = schedule
        if BASELINES[baseline].axes.get("num_levels") is not None:
            block["num_levels"] = 21 if (degradation, schedule) == ("noise", "linear") else LEVELS
        found.append(block)
    return found


def reason_for(block: dict[str, Any]) -> str | None:
    (combination,) = combinations([block])
    return refusal(combination)


VALID = [block for block in blocks() if reason_for(block) is None]
REFUSED = [block for block in blocks() if reason_for(block) is not None]


def label(block: dict[str, Any]) -> str:
    return "-".join(str(value.get("kind") if isinstance(value, dict) else value) for value in block.values())


def system_of(block: dict[str, Any]) -> tuple[System, SamplerSpec]:
    (combination,) = combinations([block])
    baseline = combination.baseline
    assert baseline.system is not None
    tree = baseline.system(combination.axes) | {"network": {"kind": "mlp", "width": 16, "depth": 1}}
    if tree["objective"].get("latent_dim"):
        tree["objective"] |= {"latent_dim": 3}
    spec = parse(SystemSpec, tree, "system")
    basis = str(getattr(spec.process, "basis", "pixel"))
    system = build_system(spec, shape=SHAPE, num_classes=None, statistics=STATISTICS.get(basis))
    sampler = parse(SamplerSpec, dict(baseline.default_samplers(combination.axes)[0]), "sampler")
    assert system.process is not None
    return system, sampler.over(system.process.num_levels)


def train_one_step(system: System) -> dict[str, torch.Tensor]:
    """One step of plain gradient descent; the gradients by parameter."""
    networks = system.networks
    system.objective.bind(networks, lambda name: dict(networks[name].named_parameters()))
    batch = Batch(images(), None, range(ROWS), ROWS)
    draws = Draws(NoiseStream(0), 0, range(ROWS), ROWS)
    for phase in system.objective.phases(0):
        inputs = phase.inputs(batch, draws)
        given = inputs.network
        losses, _ = phase.loss(inputs, networks[phase.network](given.x, given.t, given.gamma, given.cond))
        assert losses.shape == (ROWS,)
        assert torch.isfinite(losses).all()
        losses.mean().backward()
    return {
        f"{name}.{key}": parameter.grad
        for name, network in networks.items()
        for key, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def test_the_matrix_has_both_sides() -> None:
    assert len(VALID) > 60
    assert len(REFUSED) > 1000


@pytest.mark.parametrize("block", VALID, ids=label)
def test_a_valid_combination_trains_and_samples(block: dict[str, Any]) -> None:
    system, sampler = system_of(block)
    process = system.process
    assert process is not None
    gradients = train_one_step(system)
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients.values())
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    steps = min(2, sampler.steps or 2)
    times = time_grid(sampler.steps or steps)[: steps + 1]
    stream = NoiseStream(1)
    length = system.spec.objective.num_latents
    latent = None if length is None else stream.normal(range(ROWS), 0, "z", (length,))
    kernel = build_kernel(sampler.kernel)
    predictor = Predictor(system.networks["network"], process, system.spec.prediction)
    x = sample(
        process,
        kernel,
        predictor,
        stream.normal(range(ROWS), 0, "x_T", SHAPE),
        times,
        lambda step, name, shape: stream.normal(range(ROWS), step, name, shape[1:]),
        Condition(latent=latent),
        final=sampler.final,
    )
    assert isinstance(x, torch.Tensor)
    assert x.shape == (ROWS, *SHAPE)
    assert torch.isfinite(x).all()


def test_every_refusal_is_one_sentence_that_names_what_was_found() -> None:
    for block in REFUSED:
        reason = reason_for(block)
        assert reason is not None
        assert "\n" not in reason
        assert len(reason) > 20
