"""Latent codes along a path: exchanged, in windows, interpolated."""

from itertools import pairwise

import pytest
import torch

from pipeline.diffusion.latents import exchange, interpolate, window
from tests.diffusion_cases import normal


def test_the_source_s_code_stands_at_the_chosen_steps_only():
    source, target = normal(1, 3, 5), normal(2, 3, 5)
    cond = exchange(source, target, {1, 3})
    latents = [cond(step).latent for step in range(5)]
    assert [latent is source for latent in latents] == [False, True, False, True, False]
    assert all(latent is target for latent in (latents[0], latents[2], latents[4]))


def test_codes_of_different_shapes_are_not_exchanged():
    with pytest.raises(ValueError, match="one shape"):
        exchange(normal(1, 3, 5), normal(2, 3, 4), {0})


def test_adjacent_windows_take_every_step_once():
    borders = [0, 2, 5, 8]
    steps = [step for first, stop in pairwise(borders) for step in window(first, stop)]
    assert steps == list(range(8))
    assert len(window(3, 3)) == 0


@pytest.mark.parametrize("ends", [(3, 2), (-1, 2)])
def test_impossible_windows_are_refused(ends):
    with pytest.raises(ValueError, match="window"):
        window(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_arc_starts_and_ends_at_its_codes(dtype):
    z_a, z_b = normal(1, 4, 6, dtype=dtype), normal(2, 4, 6, dtype=dtype)
    arc = interpolate(z_a, z_b, [0.0, 0.3, 1.0])
    assert arc.shape == (3, 4, 6)
    assert arc.dtype == dtype
    torch.testing.assert_close(arc[0], z_a)
    torch.testing.assert_close(arc[2], z_b)


def test_codes_of_equal_length_keep_it_and_the_angle_grows_evenly():
    z_a, z_b = (torch.nn.functional.normalize(normal(seed, 4, 6), dim=1) for seed in (1, 2))
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    arc = interpolate(z_a, z_b, weights)
    torch.testing.assert_close(arc.norm(dim=2), torch.ones(5, 4).double())
    angles = torch.arccos((arc * z_a).sum(2).clamp(-1, 1))
    torch.testing.assert_close(angles, weights[:, None] * torch.arccos((z_a * z_b).sum(1)), rtol=0, atol=1e-7)


def test_orthogonal_gaussian_codes_stay_gaussian_in_size():
    """A straight line would shrink the middle by sqrt(2)."""
    z_a, z_b = normal(1, 2000, 64), normal(2, 2000, 64)
    middle = interpolate(z_a, z_b, [0.5])[0]
    assert float(middle.square().mean()) == pytest.approx(1.0, abs=0.02)


def test_parallel_codes_are_joined_by_a_line():
    z = normal(1, 2, 5)
    torch.testing.assert_close(interpolate(z, 3 * z, [0.25])[0], 1.5 * z)


def test_opposite_codes_have_no_arc():
    z = normal(1, 2, 5)
    with pytest.raises(ValueError, match="opposite"):
        interpolate(z, -z, [0.5])


def test_codes_of_different_shapes_are_not_interpolated():
    with pytest.raises(ValueError, match="one shape"):
        interpolate(normal(1, 2, 5), normal(1, 3, 5), [0.5])
