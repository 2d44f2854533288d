"""Windows of movement: how many steps of a grid resolve each component, and grids made for them."""

from typing import Any

import pytest
import torch

from pipeline.baselines.samplers import SamplerSpec
from pipeline.config import ConfigError, parse
from pipeline.diffusion.sampling import time_grid
from pipeline.diffusion.windows import largest_step, steps_in_window, window_grid
from tests.diffusion_cases import image_process, vector_process

VARIANCES = torch.tensor([4.0, 0.1, 1.5, 0.02], dtype=torch.float64)
CLIPPED = {"kind": "gud", "ordering": "rank", "clip": True, "log_snr_data": 6.0, "log_snr_prior": -6.0}


def clipped(softness_a: float) -> Any:
    return vector_process(CLIPPED | {"softness_a": softness_a}, VARIANCES)


def test_steps_of_a_uniform_grid_are_shared_out_among_sequential_components():
    assert steps_in_window(clipped(12.0), time_grid(40)).tolist() == [10] * 4
    assert steps_in_window(clipped(0.0), time_grid(40)).tolist() == [40] * 4
    assert steps_in_window(clipped(24.0), time_grid(70)).tolist() == [10] * 4  # the rest is dead time


def test_a_scalar_schedule_moves_in_every_step():
    assert steps_in_window(image_process("vp"), time_grid(9)).tolist() == [9]


@pytest.mark.parametrize("softness_a", [0.0, 2.0, 5.0, 12.0, 15.0, 40.0])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_grid_over_windows_has_all_kinks_and_enough_steps(softness_a, steps):
    process = clipped(softness_a)
    times = window_grid(process, steps)
    assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
    assert times.dtype == torch.float64
    assert bool((times.diff() < 0).all())
    assert set(process.schedule.kinks) <= set(times.tolist())
    assert int(steps_in_window(process, times).min()) >= steps


@pytest.mark.parametrize(("softness_a", "num_steps"), [(0.0, 10), (12.0, 40), (24.0, 43)])
def test_a_grid_over_windows_has_no_step_too_many(softness_a, num_steps):
    assert len(window_grid(clipped(softness_a), 10)) - 1 == num_steps  # 4 windows of 10, and 3 steps between them


@pytest.mark.parametrize("schedule", ["columns", "haar_columns", "gud", "vp"])
def test_every_schedule_has_a_grid_over_windows(schedule):
    process = image_process(schedule)
    assert int(steps_in_window(process, window_grid(process, 6)).min()) >= 6


def test_a_grid_of_no_steps_is_refused():
    with pytest.raises(ConfigError, match="steps_per_window"):
        window_grid(clipped(12.0), 0)


def test_the_largest_step_of_long_grids_is_that_of_the_rate():
    process = clipped(12.0)
    rate = float(process.marginal(0.1).d_gamma.max())
    assert largest_step(process, time_grid(1000)) == pytest.approx(rate / 1000)  # more than are held at once
    assert largest_step(process, time_grid(1)) == pytest.approx(12.0)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
@pytest.mark.parametrize("softness_a", [1.0, 12.0, 20.0])
def test_a_sampler_by_steps_of_log_snr_takes_as_few_as_keep_them_small(softness_a, spacing):
    process = clipped(softness_a)
    tree = {"kind": "ddim", "log_snr_step": 0.5, "spacing": spacing}
    steps = parse(SamplerSpec, tree).on(process).steps
    assert steps is not None
    assert largest_step(process, time_grid(steps, spacing)) <= 0.5 * (1 + 1e-9)
    assert largest_step(process, time_grid(steps - 1, spacing)) > 0.5
