"""What every entry of the network table promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import parse, union
from pipeline.diffusion.objectives import Draws
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.randomness import NoiseStream
from pipeline.networks import NETWORKS, NetworkSpec, dropout_masks

SMALL = {"base_channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1, "attention_resolutions": [4]}
SPECS: dict[str, dict[str, Any]] = {
    "unet-ddpmpp": {"kind": "unet", "block": "ddpmpp", **SMALL, "dropout": 0.2},
    "unet-mp": {"kind": "unet", "block": "mp", **SMALL, "dropout": 0.2},
    "mlp": {"kind": "mlp", "width": 16, "depth": 2, "dropout": 0.2},
}
WITH_LEVELS = {"num_times": 2, "latent_dim": 5}
DENOISERS = [*SPECS, *(f"{name}-levels" for name in SPECS)]
"""Each network as it is, and reading two times and a latent code."""

SHAPE = (1, 8, 8)
STREAM = NoiseStream(0)


def test_every_network_is_covered_here() -> None:
    trained = {kind for kind, spec in NETWORKS.items() if spec.is_trained}
    assert {case["kind"] for case in SPECS.values()} | {"classifier"} == trained


def spec_of(name: str) -> NetworkSpec:
    return parse(union(NETWORKS), SPECS[name.removesuffix("-levels")])


def build(name: str, num_classes: int | None = 3) -> nn.Module:
    return spec_of(name).build(SHAPE, num_classes, 64, **(WITH_LEVELS if name.endswith("-levels") else {}))


def arguments(batch: int) -> tuple[Tensor, Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, *SHAPE, generator=generator)
    gamma = 4 * torch.randn(batch, 64, generator=generator)
    t, time_to = torch.rand(2, batch, generator=generator)
    latent = torch.randn(batch, WITH_LEVELS["latent_dim"], generator=generator)
    return x, t, gamma, Condition(label=torch.arange(batch) % 3, latent=latent, time_to=time_to)


def trained(network: nn.Module) -> nn.Module:
    """Moves the weights that start at zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("name", DENOISERS)
def test_output_is_zero_before_training(name: str) -> None:
    out = build(name).eval()(*arguments(4))
    assert torch.equal(out, torch.zeros(4, *SHAPE))


@pytest.mark.parametrize("name", DENOISERS)
def test_output_has_shape_and_dtype_of_the_input(name: str) -> None:
    out = trained(build(name)).eval()(*arguments(4))
    assert out.shape == (4, *SHAPE)
    assert out.dtype == torch.float32
    assert out.abs().max() > 1e-3


@pytest.mark.parametrize("name", DENOISERS)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    network = trained(build(name))
    with dropout_masks(network, Draws(STREAM, 0, range(4), 4)):
        network(*arguments(4)).square().mean().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", DENOISERS)
def test_batch_of_eight_equals_its_two_halves_in_training_mode(name: str) -> None:
    network = trained(build(name))
    x, t, gamma, cond = arguments(8)
    assert cond.label is not None
    assert cond.latent is not None
    assert cond.time_to is not None

    def output(first: int, last: int) -> Tensor:
        part = slice(first, last)
        own = Condition(label=cond.label[part], latent=cond.latent[part], time_to=cond.time_to[part])
        with torch.no_grad(), dropout_masks(network, Draws(STREAM, 7, range(first, last), 8)):
            return network(x[part], t[part], gamma[part], own)

    torch.testing.assert_close(torch.cat([output(0, 4), output(4, 8)]), output(0, 8), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DENOISERS)
def test_weights_survive_a_state_dict_round_trip(name: str) -> None:
    network = trained(build(name)).eval()
    copy = build(name).eval()
    copy.load_state_dict({key: value.clone() for key, value in network.state_dict().items()})
    assert torch.equal(copy(*arguments(2)), network(*arguments(2)))


@pytest.mark.parametrize("name", DENOISERS)
def test_noise_free_and_signal_free_levels_are_accepted(name: str) -> None:
    network = trained(build(name)).eval()
    x, t, gamma, cond = arguments(2)
    gamma = torch.tensor([[-torch.inf], [torch.inf]]).expand_as(gamma)
    assert torch.isfinite(network(x, t, gamma, cond)).all()


@pytest.mark.parametrize("name", DENOISERS)
def test_network_runs_in_bfloat16_autocast(name: str) -> None:
    network = trained(build(name)).eval()
    with torch.no_grad():
        exact = network(*arguments(2)).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(*arguments(2)).float()
    assert (rough - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", DENOISERS)
def test_spec_survives_a_round_trip_through_plain_data(name: str) -> None:
    spec = spec_of(name)
    assert parse(union(NETWORKS), spec.model_dump(mode="json")) == spec
