"""What every entry of the objective table promises."""

from typing import Any

import pytest
import torch

from pipeline.config import parse, union
from pipeline.diffusion import build_process
from pipeline.diffusion.objectives import ENCODER, OBJECTIVES, Batch, Draws, Objective
from pipeline.diffusion.predictor import Precondition
from pipeline.diffusion.randomness import NoiseStream
from pipeline.networks import ClassifierSpec, MlpSpec

SHAPE = (1, 4, 4)
LOG_LINEAR = {"kind": "log_linear", "gamma_min": -6.0, "gamma_max": 5.0}
SMALL: dict[str, Any] = {"latent_dim": 3, "kl_annealing": 30}
CASES: dict[str, dict[str, Any]] = {
    **{
        f"denoising-{loss}-{weighting}": {"kind": "denoising", "loss": loss, "weighting": weighting}
        for loss in ("mse", "huber", "l1")
        for weighting in ("uniform", "likelihood", "snr_truncated")
        if loss == "mse" or weighting != "likelihood"
    },
    "classification": {"kind": "classification"},
    "cold-l1": {"kind": "cold", "loss": "l1", "label_dropout": 0.5},
    "cold-mse": {"kind": "cold", "loss": "mse"},
    "sequential": {"kind": "sequential", "label_dropout": 0.5},
    "sequential-stride": {"kind": "sequential", "stride": 3},
    "variational": {"kind": "variational_cold", **SMALL},
    "variational-jitter": {"kind": "variational_cold", **SMALL, "jitter": 0.1, "stride": 2, "label_dropout": 0.5},
    "variational-rollout": {"kind": "variational_cold", **SMALL, "rollout": True},
    "variational-rollout-late": {"kind": "variational_cold", **SMALL, "rollout": True, "teacher_from": 0},
}
PREDICTIONS = {"denoising": "v", "classification": "v", "cold": "x0", "sequential": "x_prev", "variational": "x_prev"}
HEAT = {"kind": "heat", "num_levels": 6, "fade": "cosine"}
PROCESSES: dict[str, dict[str, Any]] = {
    "diffusion": {"kind": "spectral", "basis": "dct", "schedule": LOG_LINEAR},
    "blur": {"kind": "spectral", "basis": "dct", "centre": "black", "schedule": HEAT},
    "noisy-blur": {"kind": "spectral", "basis": "dct", "schedule": {**HEAT, "noise": 0.1}},
    "operator": {
        "kind": "operator",
        "degradation": {"kind": "reflect_blur", "kernel_size": 3},
        "num_levels": 4,
        "fade": "cosine",
        "centre": "black",
        "noise": 0.1,
    },
}
STREAM = NoiseStream(11)


def test_every_objective_is_covered_here() -> None:
    assert {case["kind"] for case in CASES.values()} == set(OBJECTIVES)


def build(name: str, process: str = "") -> Objective:
    prediction: Any = PREDICTIONS[name.split("-")[0]]
    process = process or ("diffusion" if prediction == "v" else "blur")
    built = build_process(PROCESSES[process], shape=SHAPE)
    return parse(union(OBJECTIVES), CASES[name]).build(Precondition(built, prediction))


def networks_for(name: str) -> dict[str, torch.nn.Module]:
    spec = parse(union(OBJECTIVES), CASES[name])
    network = ClassifierSpec(width=4) if name == "classification" else MlpSpec(width=16, depth=1)
    networks = {"network": network.build(SHAPE, 3, num_times=spec.num_times, latent_dim=spec.num_latents)}
    if spec.num_latents is not None:
        networks[ENCODER] = network.encoder(SHAPE, spec.num_latents)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in networks.values():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return networks


def bound(objective: Objective, networks: dict[str, torch.nn.Module]) -> Objective:
    """Averages are the weights times 0.9."""
    objective.optimisers(networks)
    averages = {name: {key: 0.9 * value for key, value in m.state_dict().items()} for name, m in networks.items()}
    objective.bind(networks, averages.__getitem__)
    return objective


def losses(name: str, first: int, last: int, *, step: int = 5, process: str = "") -> torch.Tensor:
    """Losses of positions [first, last) of a global batch of 8."""
    draws = Draws(STREAM, step, range(first, last), 8)
    x_0 = Draws(STREAM, 0, range(first, last), 8).uniform("data", SHAPE) * 2 - 1
    batch = Batch(x_0, torch.arange(first, last) % 3, range(first, last), 8)
    networks = networks_for(name)
    objective = bound(build(name, process), networks)
    values = torch.empty(0)
    for phase in objective.phases(step):
        inputs = phase.inputs(batch, draws)
        call = inputs.network
        network = networks[phase.network]
        values, metrics = phase.loss(inputs, network(call.x, call.t, call.gamma, call.cond))
        assert all(value.shape == (last - first,) and not value.requires_grad for value in metrics.values())
    return values


@pytest.mark.parametrize("name", CASES)
def test_losses_are_per_example_float32_finite_and_differentiable(name: str) -> None:
    values = losses(name, 0, 8)
    assert values.shape == (8,)
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert values.requires_grad


@pytest.mark.parametrize("name", CASES)
def test_losses_do_not_depend_on_how_the_batch_is_split(name: str) -> None:
    parts = torch.cat([losses(name, 0, 3), losses(name, 3, 8)])
    torch.testing.assert_close(parts, losses(name, 0, 8), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("process", ["noisy-blur", "operator"])
@pytest.mark.parametrize("name", [name for name in CASES if PREDICTIONS[name.split("-")[0]] != "v"])
def test_every_degradation_will_do_and_its_noise_is_keyed_too(name: str, process: str) -> None:
    whole = losses(name, 0, 8, process=process)
    parts = torch.cat([losses(name, 0, 3, process=process), losses(name, 3, 8, process=process)])
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_losses_are_a_function_of_the_step(name: str) -> None:
    assert torch.equal(losses(name, 0, 8), losses(name, 0, 8))
    assert not torch.equal(losses(name, 0, 8), losses(name, 0, 8, step=6))


@pytest.mark.parametrize("name", CASES)
def test_phases_name_existing_optimisers_and_networks(name: str) -> None:
    objective = build(name)
    networks = networks_for(name)
    optimisers = objective.optimisers(networks)
    for phase in objective.phases(0):
        assert phase.network in networks
        assert phase.optimiser in optimisers
    grouped = [parameter for groups in optimisers.values() for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(p) for m in networks.values() for p in m.parameters()}


@pytest.mark.parametrize("name", CASES)
def test_state_survives_a_round_trip(name: str) -> None:
    objective = build(name)
    objective.load_state_dict(objective.state_dict())
    with pytest.raises(ValueError, match="no state"):
        objective.load_state_dict({"step": 1})


@pytest.mark.parametrize("name", CASES)
def test_spec_survives_a_round_trip_through_plain_data(name: str) -> None:
    spec = parse(union(OBJECTIVES), CASES[name])
    assert parse(union(OBJECTIVES), spec.model_dump(mode="json")) == spec
