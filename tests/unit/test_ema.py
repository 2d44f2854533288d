"""Exponential moving average of weights."""

import pytest
import torch
from torch import nn

from pipeline.networks import ExponentialMovingAverage


def constant_module(value: float) -> nn.Linear:
    module = nn.Linear(3, 2)
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def test_average_of_constant_weights_approaches_them_geometrically() -> None:
    module = constant_module(0.0)
    average = ExponentialMovingAverage(module, decay=0.9, warmup=False)
    for _ in range(5):
        average.update(constant_module(1.0))
    torch.testing.assert_close(average.weights()["weight"], torch.full((2, 3), 1 - 0.9**5))


def test_warmup_follows_the_number_of_updates() -> None:
    average = ExponentialMovingAverage(constant_module(0.0), decay=0.999)
    assert average.next_decay(1) == pytest.approx(1 / 10)
    average.num_updates = 90
    assert average.next_decay(1) == pytest.approx(91 / 100)
    average.num_updates = 10**6
    assert average.next_decay(1) == 0.999


def test_half_life_halves_the_weight_of_what_is_that_old() -> None:
    module = constant_module(1.0)
    average = ExponentialMovingAverage(module, half_life_images=64.0, warmup=False)
    for _ in range(4):
        average.update(constant_module(0.0), num_images=16)
    torch.testing.assert_close(average.weights()["bias"], torch.full((2,), 0.5))


def test_half_life_does_not_depend_on_the_batch_size() -> None:
    small = ExponentialMovingAverage(constant_module(1.0), half_life_images=100.0, warmup=False)
    large = ExponentialMovingAverage(constant_module(1.0), half_life_images=100.0, warmup=False)
    for _ in range(8):
        small.update(constant_module(0.0), num_images=8)
    large.update(constant_module(0.0), num_images=64)
    torch.testing.assert_close(small.weights()["weight"], large.weights()["weight"])


def test_warmup_limits_the_half_life_to_a_share_of_the_images_seen() -> None:
    average = ExponentialMovingAverage(constant_module(0.0), half_life_images=1e6)
    assert average.next_decay(10) == pytest.approx(0.5**20)


def test_resumed_average_equals_the_uninterrupted_one() -> None:
    torch.manual_seed(0)
    steps = [nn.Linear(3, 2) for _ in range(6)]
    whole = ExponentialMovingAverage(steps[0], decay=0.95)
    for module in steps[:3]:
        whole.update(module, num_images=4)
    resumed = ExponentialMovingAverage(nn.Linear(3, 2), decay=0.95)
    resumed.load_state_dict({**whole.state_dict(), "average": {k: v.clone() for k, v in whole.weights().items()}})
    for module in steps[3:]:
        whole.update(module, num_images=4)
        resumed.update(module, num_images=4)
    assert all(torch.equal(whole.weights()[name], value) for name, value in resumed.weights().items())
    assert resumed.num_images == whole.num_images


def test_copy_to_writes_the_average_and_leaves_buffers() -> None:
    module = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(module, decay=0.5)
    nn.init.constant_(module.weight, 7.0)
    module.running_mean.fill_(3.0)
    average.copy_to(module)
    assert torch.equal(module.weight, torch.ones(2))
    assert torch.equal(module.running_mean, torch.full((2,), 3.0))


def test_average_does_not_share_memory_with_the_weights() -> None:
    module = constant_module(1.0)
    average = ExponentialMovingAverage(module, decay=0.5)
    nn.init.constant_(module.weight, 5.0)
    assert torch.equal(average.weights()["weight"], torch.ones(2, 3))


@pytest.mark.parametrize("arguments", [{}, {"decay": 0.9, "half_life_images": 10.0}, {"decay": 1.0}])
def test_contradictory_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"decay|half_life_images"):
        ExponentialMovingAverage(constant_module(0.0), **arguments)


def test_state_of_another_network_is_refused() -> None:
    average = ExponentialMovingAverage(constant_module(0.0), decay=0.5)
    with pytest.raises(ValueError, match="another network"):
        average.load_state_dict({"num_updates": 1, "num_images": 1, "average": {"other": torch.zeros(1)}})
