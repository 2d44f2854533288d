"""Dropout: keyed masks, the same for every split of the batch."""

import pytest
import torch

from pipeline.diffusion.objectives import Draws
from pipeline.diffusion.randomness import NoiseStream
from pipeline.networks import KeyedDropout, MlpSpec, dropout_masks

STREAM = NoiseStream(5)


def draws(first: int, last: int, *, step: int = 3) -> Draws:
    return Draws(STREAM, step, range(first, last), 8)


def test_dropout_is_the_identity_in_eval_mode() -> None:
    x = torch.randn(4, 6)
    assert torch.equal(KeyedDropout(0.5).eval()(x), x)


def test_dropout_in_training_mode_without_masks_is_refused() -> None:
    with pytest.raises(RuntimeError, match="dropout_masks"):
        KeyedDropout(0.5)(torch.ones(2, 3))


def test_dropout_keeps_the_mean_and_drops_the_asked_share() -> None:
    layer = KeyedDropout(0.25)
    with dropout_masks(layer, draws(0, 8)):
        out = layer(torch.ones(8, 2000))
    share = (out == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 16000) ** 0.5)
    assert torch.equal(out.unique(), torch.tensor([0.0, 1 / 0.75]))


def test_masks_differ_between_layers_and_steps() -> None:
    network = torch.nn.ModuleList([KeyedDropout(0.5), KeyedDropout(0.5)])
    network[0].name, network[1].name = "first", "second"
    x = torch.ones(4, 100)
    with dropout_masks(network, draws(0, 4)):
        first, second = network[0](x), network[1](x)
    with dropout_masks(network, draws(0, 4, step=4)):
        later = network[0](x)
    assert not torch.equal(first, second)
    assert not torch.equal(first, later)


def test_network_with_dropout_on_a_batch_equals_its_two_halves() -> None:
    network = MlpSpec(width=16, depth=2, dropout=0.3).build((4,), None)
    torch.nn.init.normal_(network.output.weight)
    torch.nn.init.normal_(network.blocks[0].second.weight)
    x, t, gamma = torch.randn(8, 4), torch.rand(8), torch.randn(8, 1)

    def output(first: int, last: int) -> torch.Tensor:
        with dropout_masks(network, draws(first, last)):
            return network(x[first:last], t[first:last], gamma[first:last])

    whole = output(0, 8)
    torch.testing.assert_close(torch.cat([output(0, 4), output(4, 8)]), whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(whole, network.eval()(x, t, gamma))


def test_masks_are_forgotten_after_the_block() -> None:
    layer = KeyedDropout(0.5)
    with dropout_masks(layer, draws(0, 2)):
        layer(torch.ones(2, 3))
    assert layer.source is None
