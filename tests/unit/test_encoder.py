"""Variational encoders: a half of each network, called with two states and their times."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import ConfigError
from pipeline.networks import ClassifierSpec, MlpEncoder, MlpSpec, NetworkSpec, UnetEncoder, UnetSpec

SMALL = {"base_channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_resolutions": (4,)}
SPECS: dict[str, NetworkSpec] = {
    "unet-ddpmpp": UnetSpec(block="ddpmpp", dropout=0.3, **SMALL),
    "unet-mp": UnetSpec(block="mp", dropout=0.3, **SMALL),
    "mlp": MlpSpec(width=16, depth=2, dropout=0.3),
}
LATENT = 5


def arguments(batch: int = 3, shape: tuple[int, ...] = (1, 8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pair = torch.randn(batch, 2 * shape[0], *shape[1:], generator=generator)
    t, time_to = torch.rand(2, batch, generator=generator)
    return pair, t, time_to


def trained(network: nn.Module) -> nn.Module:
    """Moves the weights that start at zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("name", SPECS)
class TestEncoder:
    def test_starts_near_the_prior_variance(self, name: str) -> None:
        mean, log_variance = SPECS[name].encoder((1, 8, 8), LATENT)(*arguments())
        assert mean.shape == log_variance.shape == (3, LATENT)
        assert mean.dtype == log_variance.dtype == torch.float32
        assert log_variance.abs().max() < 0.1
        assert 0.05 < mean.square().mean() < 5.0

    def test_reads_both_states_and_both_times(self, name: str) -> None:
        network = trained(SPECS[name].encoder((1, 8, 8), LATENT)).eval()
        pair, t, time_to = arguments()
        expected = network(pair, t, time_to)[0]
        for channel in (0, 1):
            other = pair.clone()
            other[:, channel] += 0.5
            assert not torch.allclose(network(other, t, time_to)[0], expected, atol=1e-4)
        assert not torch.allclose(network(pair, t.flip(0), time_to)[0], expected, atol=1e-4)
        assert not torch.allclose(network(pair, t, time_to.flip(0))[0], expected, atol=1e-4)

    def test_every_parameter_gets_a_gradient(self, name: str) -> None:
        network = trained(SPECS[name].encoder((1, 8, 8), LATENT))
        mean, log_variance = network(*arguments())
        (mean.square().sum() + log_variance.square().sum()).backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name

    def test_has_no_dropout(self, name: str) -> None:
        network = trained(SPECS[name].encoder((1, 8, 8), LATENT)).train()
        torch.testing.assert_close(network(*arguments())[0], network(*arguments())[0], rtol=1e-5, atol=1e-5)

    def test_does_not_couple_examples(self, name: str) -> None:
        network = trained(SPECS[name].encoder((1, 8, 8), LATENT)).eval()
        whole = network(*arguments())
        first = network(*(part[:1] for part in arguments()))
        torch.testing.assert_close(whole[0][:1], first[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(whole[1][:1], first[1], rtol=1e-5, atol=1e-5)

    def test_is_smaller_than_the_network(self, name: str) -> None:
        sizes = [
            sum(parameter.numel() for parameter in module.parameters())
            for module in (SPECS[name].encoder((1, 8, 8), LATENT), SPECS[name].build((1, 8, 8)))
        ]
        assert sizes[0] < 0.75 * sizes[1]

    def test_weights_are_a_function_of_the_seed_and_not_those_of_the_network(self, name: str) -> None:
        spec = SPECS[name]
        state = torch.random.get_rng_state()
        first, again, other = (spec.encoder((1, 8, 8), LATENT, seed=seed).input for seed in (1, 1, 2))
        assert torch.equal(state, torch.random.get_rng_state())
        flat = [torch.cat([p.flatten() for p in layer.parameters()]) for layer in (first, again, other)]
        assert torch.equal(flat[0], flat[1])
        assert not torch.equal(flat[0], flat[2])
        own = torch.cat([p.flatten() for p in spec.build((1, 8, 8), seed=1).input.parameters()])
        assert not torch.equal(flat[0][:8], own[:8])

    def test_runs_in_bfloat16_and_answers_in_float32(self, name: str) -> None:
        network = trained(SPECS[name].encoder((1, 8, 8), LATENT)).eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(*arguments())
        exact = network(*arguments())
        for first, second in zip(rough, exact, strict=True):
            assert first.dtype == torch.float32
            assert (first - second).norm() < 0.1 * second.norm()


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 28, 28)])
def test_unet_encoder_takes_any_image_size(shape: tuple[int, ...]) -> None:
    mean, _ = UnetSpec(**SMALL).encoder(shape, LATENT)(*arguments(2, shape))
    assert mean.shape == (2, LATENT)


def test_mlp_encoder_takes_points() -> None:
    mean, _ = SPECS["mlp"].encoder((4,), LATENT)(*arguments(2, (4,)))
    assert mean.shape == (2, LATENT)


def test_unet_encoder_has_half_the_channels_by_the_published_rule() -> None:
    spec = UnetSpec(base_channels=64, channel_multipliers=(1, 2, 3, 4), num_blocks=1)
    encoder = spec.encoder((3, 16, 16), LATENT)
    assert isinstance(encoder, UnetEncoder)
    widths = [block.second.out_channels for block in encoder.encoder]
    assert widths == [32, 32, 32, 64, 64, 64, 64]  # multipliers 1, 1, 2, 2; from the second on a halving block first


def test_mlp_encoder_is_half_as_wide() -> None:
    encoder = MlpSpec(width=32, depth=3).encoder((1, 8, 8), LATENT)
    assert isinstance(encoder, MlpEncoder)
    assert encoder.input.out_features == 16
    assert len(encoder.blocks) == 3


def test_network_without_encoder_says_so() -> None:
    with pytest.raises(ConfigError, match="no encoder"):
        ClassifierSpec().encoder((1, 8, 8), LATENT)
