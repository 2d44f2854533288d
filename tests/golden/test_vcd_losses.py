"""Losses, rollout states and the KL term of the published variational cold diffusion: cold/, see the page beside it.

The analytic models of the arrays take the network's place behind a precondition that is the published one: raw images
in, x_{t-1} = x_t + f or x_0 = f out. Everything else is the objectives' own code.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion import build_process
from pipeline.diffusion.objectives import (
    ENCODER,
    Batch,
    ColdSpec,
    DenoisingSpec,
    Draws,
    SequentialSpec,
    VariationalColdSpec,
)
from pipeline.diffusion.objectives.levels import Levelled
from pipeline.diffusion.objectives.variational_cold import kl_weight
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition, NetworkInputs, Precondition
from pipeline.diffusion.processes.operators.pixelate_nearest import PixelateNearest, vcd_sizes
from pipeline.diffusion.randomness import NoiseStream

FOLDER = Path(__file__).parent / "cold"
ARRAYS = np.load(FOLDER / "vcd_samplers_and_losses.npz")
CURVE = np.load(FOLDER / "schedules.npz")["kl_anneal_curve_30"]
TAGS = ("m28", "c12")


def tensor(name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[name])


def process_of(degradation: str, num_levels: int, shape: tuple[int, ...]) -> Any:
    """The published degradations on raw numbers, centre 0."""
    if degradation == "black_pixelation":
        own = {"kind": "reflect_blur", "kernel_size": 3}
        operator = {"kind": "operator", "degradation": own, "num_levels": num_levels, "fade": "vcd_cosine"}
        blocks = PixelateNearest(vcd_sizes(shape[-1], num_levels), shape)  # a configuration may not repeat a size
        return replace(build_process(operator, shape), operator=blocks)
    extra = {"black_blur": {"fade": "vcd_cosine"}, "blur": {}, "blur_ris": {"noise": 0.01}}[degradation]
    schedule = {"kind": "heat", "levels": "vcd", **extra, "num_levels": num_levels}
    return build_process({"kind": "spectral", "basis": "dct", "schedule": schedule}, shape)


class Published(Precondition):
    """Raw images in; the network's output is x_0, or the step from x_t to x_{t-1}."""

    def inputs(self, u_t: Tensor, t: Tensor | float, cond: Condition | None = None) -> NetworkInputs:
        return replace(super().inputs(u_t, t, cond), x=self.process.to_data(u_t[:, 0]).float())

    def prediction(self, u_t: Tensor, t: Tensor | float, output: Tensor, cond: Condition | None = None) -> Prediction:
        value = self.process.to_components(output)
        if self.target == "x_prev":
            value = value + u_t[:, 0]
        return Prediction(self.target, value, u_t[:, 0], None)


@dataclass(frozen=True)
class Recorded(Draws):
    """Draws with recorded normal numbers in place of some."""

    normals: dict[str, Tensor] = field(default_factory=dict)

    def normal(self, name: str, shape: Any) -> Tensor:
        return self.normals[name] if name in self.normals else super().normal(name, shape)


class Model(nn.Module):
    """f = 0.1 x + 0.01 level + 0.05 cond, level 1 ... T, with cond as the latent code."""

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def forward(self, x: Tensor, t: Tensor, gamma: Tensor, cond: Condition) -> Tensor:
        out = 0.1 * x + 0.01 * self.num_levels * t[:, None, None, None]
        return out if cond.latent is None else out + 0.05 * cond.latent.reshape(x.shape)


class Revealing(nn.Module):
    """An encoder whose code is the cleaner state itself."""

    def forward(self, x_pair: Tensor, t: Tensor, time_to: Tensor) -> tuple[Tensor, Tensor]:
        mean = x_pair.chunk(2, dim=1)[1].flatten(1)
        return mean, torch.full_like(mean, -200.0)


class Given(nn.Module):
    """An encoder with the published mean and log variance."""

    def forward(self, x_pair: Tensor, t: Tensor, time_to: Tensor) -> tuple[Tensor, Tensor]:
        return tensor("kl_mu"), tensor("kl_logvar")


def draws(size: int, **normals: Tensor) -> Recorded:
    return Recorded(NoiseStream(0), 0, range(size), size, normals=normals)


def built(spec: Any, degradation: str, tag: str) -> Any:
    images = tensor(f"{tag}_loss_x0")
    process = process_of(degradation, int(ARRAYS[f"{tag}_T"]), tuple(images.shape[1:]))
    return spec.build(Published(process, "x0" if isinstance(spec, ColdSpec) else "x_prev"))


def levels_of(objective: Levelled, given: Draws) -> Tensor:
    """The zero-based level of each example, with which its image goes."""
    return (objective.time(given) * objective.num_levels).round().long() - 1


def loss(objective: Any, given: Recorded, images: Tensor, model: nn.Module) -> tuple[float, dict[str, float]]:
    """Means over the batch."""
    (phase,) = objective.phases(0)
    inputs = phase.inputs(Batch(images, None, given.positions, given.global_batch), given)
    call = inputs.network
    values, metrics = phase.loss(inputs, model(call.x, call.t, call.gamma, call.cond))
    return values.mean().item(), {name: value.mean().item() for name, value in metrics.items()}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("degradation", ["black_blur", "blur_ris"])
def test_sequential_loss_is_the_published_one(tag: str, degradation: str) -> None:
    objective = built(SequentialSpec(), degradation, tag)
    order = levels_of(objective, draws(objective.num_levels))
    given = draws(objective.num_levels, eps=tensor(f"{tag}_loss_ris_noise")[order])
    value, _ = loss(objective, given, tensor(f"{tag}_loss_x0")[order], Model(objective.num_levels))
    assert value == pytest.approx(float(ARRAYS[f"{tag}_loss_xt_{degradation}"]), rel=1e-5)


@pytest.mark.parametrize("tag", TAGS)
def test_cold_loss_is_the_mean_over_pixels_of_the_published_sum(tag: str) -> None:
    class Proportional(nn.Module):
        def forward(self, x: Tensor, t: Tensor, gamma: Tensor, cond: Any) -> Tensor:
            return 0.9 * x + 0.05

    objective = built(ColdSpec(), "blur", tag)
    given = draws(objective.num_levels)
    images = tensor(f"{tag}_loss_x0")[levels_of(objective, given)]
    value, _ = loss(objective, given, images, Proportional())
    assert value * images[0].numel() == pytest.approx(float(ARRAYS[f"{tag}_loss_x0_blur_L1"]), rel=1e-5)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("degradation", ["black_blur", "black_pixelation"])
def test_variational_loss_is_the_published_one(tag: str, degradation: str) -> None:
    total, recon, kl = ARRAYS[f"{tag}_loss_vae_{degradation}"]
    dim = tensor(f"{tag}_loss_x0")[0].numel()
    spec = VariationalColdSpec(latent_dim=dim, beta=0.004, kl_annealing=30)
    objective = built(spec, degradation, tag)
    model = Model(objective.num_levels)
    objective.bind({"network": model, ENCODER: Revealing()}, lambda name: {})
    given = draws(objective.num_levels)
    value, metrics = loss(objective, given, tensor(f"{tag}_loss_x0")[levels_of(objective, given)], model)
    assert metrics["recon"] == pytest.approx(float(recon), rel=1e-5)
    assert value == pytest.approx(metrics["recon"] + 0.004 * kl_weight(0, 30) * metrics["kl"], rel=1e-6)
    assert float(total) == pytest.approx(float(recon) + 0.004 * kl_weight(0, 30) * float(kl), rel=1e-6)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("is_reset", [False, True])
def test_rollout_states_are_the_published_ones(tag: str, is_late: bool, is_reset: bool) -> None:
    images = tensor(f"{tag}_loss_x0")
    size, dim = len(images) ** 2, images[0].numel()
    spec = VariationalColdSpec(latent_dim=dim, rollout=True, teacher_from=0 if is_late else 1)
    objective = built(spec, "black_blur", tag)
    objective.resets = lambda given: [int(level) + 1 for level in ARRAYS[f"{tag}_resets"]] if is_reset else []
    objective.bind({"network": Model(objective.num_levels), ENCODER: Revealing()}, lambda name: {})
    given = draws(size)
    levels = levels_of(objective, given)
    which = torch.zeros(size, dtype=torch.int64)
    for level in range(objective.num_levels):
        which[levels == level] = torch.arange(len(images))
    inputs = objective.inputs(Batch(images[which], None, range(size), size), given)
    states = objective.process.to_data(inputs.u_t[:, 0])
    expected = tensor(f"{tag}_vcd_rollout_{'reset' if is_reset else 'noreset'}")
    torch.testing.assert_close(states, expected[levels, which], rtol=0.0, atol=1e-5)
    torch.testing.assert_close(inputs.network.x, expected[levels, which], rtol=0.0, atol=1e-5)


def test_code_and_kl_term_are_the_published_ones() -> None:
    objective = built(VariationalColdSpec(latent_dim=8), "black_blur", "m28")
    objective.bind({"network": Model(6), ENCODER: Given()}, lambda name: {})
    given = draws(4, z=tensor("kl_noise"))
    inputs = objective.inputs(Batch(tensor("m28_loss_x0")[:4], None, range(4), 4), given)
    torch.testing.assert_close(inputs.network.cond.latent, tensor("kl_z"), rtol=1e-6, atol=1e-6)
    assert inputs.kl.mean().item() == pytest.approx(float(ARRAYS["kl"]), rel=1e-6)


def test_kl_weight_waits_a_third_and_then_takes_the_published_curve() -> None:
    np.testing.assert_allclose([kl_weight(step, 30) for step in range(10, 40)], CURVE, atol=1e-6)
    assert {kl_weight(step, 30) for step in range(11)} == {kl_weight(0, 30)}
    assert kl_weight(0, 30) == pytest.approx(1.55e-4, rel=1e-2)
    assert kl_weight(40, 30) == kl_weight(10**6, 30) == 1.0


class Levels(Recorded):
    """Image i at zero-based level i."""

    def times(self, name: str) -> Tensor:
        return (torch.tensor(self.positions, dtype=torch.float64) + 1) / self.global_batch


class Noise(Published):
    """Raw images in; the network's output is eps."""

    def prediction(self, u_t: Tensor, t: Tensor | float, output: Tensor, cond: Condition | None = None) -> Prediction:
        return Prediction(self.target, self.process.to_components(output), u_t[:, 0], self.process.marginal(t))


@pytest.mark.parametrize("tag", TAGS)
def test_noise_loss_is_the_mean_over_pixels_of_the_published_sum(tag: str) -> None:
    images, eps = tensor(f"{tag}_loss_x0"), tensor(f"{tag}_loss_eps_noise_eps")
    size, shape = len(images), tuple(images.shape[1:])
    process = build_process({"kind": "spectral", "schedule": {"kind": "cosine", "num_levels": size}}, shape)
    objective = DenoisingSpec(t_min=1e-12).build(Noise(process, "eps"))
    given = Levels(NoiseStream(0), 0, range(size), size, normals={"eps": eps})

    class Tenth(nn.Module):
        def forward(self, x: Tensor, t: Tensor, gamma: Tensor, cond: Any) -> Tensor:
            return 0.1 * x

    value, _ = loss(objective, given, images, Tenth())
    assert value * images[0].numel() == pytest.approx(float(ARRAYS[f"{tag}_loss_eps_noise"]), rel=1e-5)
