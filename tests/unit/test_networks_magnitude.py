"""The magnitude-preserving family keeps activations at unit magnitude."""

import math

import pytest
import torch

from pipeline.networks import UnetSpec
from pipeline.networks.blocks_mp import MpBlock
from pipeline.networks.magnitude import UnitConv, UnitLinear, mp_concatenation, mp_silu, mp_sum, unit_magnitude


def root_mean_square(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_silu_of_normal_input_has_unit_magnitude() -> None:
    assert root_mean_square(mp_silu(normal(10**6))) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_sum_of_independent_inputs_has_unit_magnitude(weight: float) -> None:
    total = mp_sum(normal(10**6), normal(10**6, seed=1), weight)
    assert root_mean_square(total) == pytest.approx(1.0, abs=0.01)


def test_concatenation_weighs_both_parts_equally_and_keeps_magnitude() -> None:
    joined = mp_concatenation(normal(4, 8, 50, 50), normal(4, 24, 50, 50, seed=1))
    assert root_mean_square(joined) == pytest.approx(1.0, abs=0.01)
    energies = joined[:, :8].square().sum(), joined[:, 8:].square().sum()
    assert (energies[0] / energies[1]).item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("growth", [1.0, 100.0])
def test_layers_keep_magnitude_whatever_the_stored_weight(growth: float) -> None:
    torch.manual_seed(9)
    linear, conv = UnitLinear(64, 512), UnitConv(16, 256, 1)
    with torch.no_grad():
        linear.weight.mul_(growth)
        conv.weight.mul_(growth)
    assert root_mean_square(linear(normal(512, 64))) == pytest.approx(1.0, abs=0.03)
    assert root_mean_square(conv(normal(8, 16, 16, 16))) == pytest.approx(1.0, abs=0.05)


def test_training_call_projects_the_stored_weight_and_eval_call_does_not() -> None:
    layer = UnitLinear(32, 4)
    with torch.no_grad():
        layer.weight.mul_(10.0)
    stored = layer.weight.clone()
    in_eval = layer.eval()(torch.ones(1, 32))
    assert torch.equal(layer.weight, stored)
    in_training = layer.train()(torch.ones(1, 32))
    rows = layer.weight.square().mean(1).sqrt()
    torch.testing.assert_close(rows, torch.ones(4), rtol=1e-3, atol=0)
    torch.testing.assert_close(in_training, in_eval, rtol=1e-3, atol=1e-4)


def test_gradient_is_orthogonal_to_the_stored_weight() -> None:
    layer = UnitLinear(32, 4)
    layer(normal(8, 32)).square().sum().backward()
    assert layer.weight.grad is not None
    along = (layer.weight.grad * layer.weight).sum(1) / (layer.weight.grad.norm(dim=1) * layer.weight.norm(dim=1))
    assert along.abs().max().item() < 1e-3


def test_pixel_norm_gives_every_pixel_unit_magnitude() -> None:
    x = unit_magnitude(5.0 * normal(2, 16, 4, 4), (1,))
    torch.testing.assert_close(x.square().mean(1).sqrt(), torch.ones(2, 4, 4), rtol=1e-3, atol=0)


def test_activations_keep_magnitude_through_the_whole_network() -> None:
    spec = UnetSpec.model_validate(
        {
            "base_channels": 32,
            "channel_multipliers": [1, 2],
            "num_blocks": 2,
            "attention_resolutions": [8],
            "block": "mp",
        }
    )
    network = spec.build((1, 16, 16), None)
    measured: list[float] = []
    for module in network.modules():
        if isinstance(module, MpBlock):
            module.register_forward_hook(lambda _module, _inputs, out: measured.append(root_mean_square(out)))
    with torch.no_grad():
        network(normal(8, 1, 16, 16), torch.zeros(8), torch.linspace(-8, 8, 8)[:, None])
    assert len(measured) == 5 + 8
    assert all(math.log(1.5) > abs(math.log(magnitude)) for magnitude in measured), measured
