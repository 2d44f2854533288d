"""The same cell on one and on two workers: dropout, flips, dequantisation and 200 steps of Adam."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.train.group import current_group
from tests.train_cases import run_workers, spec, trained, weights

STEPS = 200


def on_this_worker(rank: int) -> dict[str, np.ndarray]:
    state = trained(spec(steps=STEPS, batch=7), group=current_group())  # parts of 3 and 4
    return {name: value.numpy() for name, value in weights(state).items()}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    folder: Path = tmp_path_factory.mktemp("world")
    return run_workers(2, on_this_worker, folder, timeout_s=120.0)


def largest_difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """Largest difference of any weight, as a share of the largest weight."""
    assert first.keys() == second.keys()
    largest = max(np.abs(value).max() for value in first.values())
    return max(np.abs(first[name] - second[name]).max() for name in first) / largest


def test_both_workers_hold_the_same_bits(two_workers: list[dict[str, np.ndarray]]) -> None:
    assert largest_difference(*two_workers) == 0.0


def test_two_workers_end_with_the_bits_of_one(two_workers: list[dict[str, np.ndarray]]) -> None:
    assert largest_difference(on_this_worker(0), two_workers[0]) == 0.0
