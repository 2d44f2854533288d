"""What every degradation schedule of the table promises, at t = 0 and t = 1 included."""

import itertools
import math
import pickle

import pytest
import torch

from pipeline.config import ConfigError, parse
from pipeline.diffusion import build_process
from pipeline.diffusion.processes import SpectralProcess
from pipeline.diffusion.schedules import DEGRADATION_SCHEDULES, NOISE_SCHEDULES, SCHEDULES, ScheduleUnion

VARIANTS: dict[str, list[dict]] = {
    "dim": [{}, {"fade": "linear"}, {"fade": "exponential"}, {"fade": "vcd_cosine"}],
    "heat": [{}, {"blur_max": 3.0, "noise": 0.02}, {"fade": "cosine"}, {"with_flat_end": False}, {"levels": "vcd"}],
    "block_mean": [{}, {"fade": "cosine", "noise": 0.1}],
    "kernel_blur": [{}, {"kernel_size": 5, "kernel_std": 2.0, "with_flat_end": False}],
    "masking": [{}, {"levels": "cold", "kernel_std": 0.4, "with_zero_end": False}],
    "decolor": [{}, {"chroma": "cosine", "fade": "linear"}],
}
CASES = [{"kind": kind, **settings} for kind, variants in VARIANTS.items() for settings in variants]
PUBLISHED = [case for case in CASES if "vcd" in str(case) or "kernel_std" in case]
"""Levels may do nothing: at the end of vcd's, and where many strong kernels or masks follow each other."""
SHAPE = (3, 12, 8)
NUM_LEVELS = 6


def test_every_kind_has_a_case() -> None:
    assert set(VARIANTS) == set(DEGRADATION_SCHEDULES)
    assert set(SCHEDULES) - set(NOISE_SCHEDULES) - set(DEGRADATION_SCHEDULES) == {"blurring"}  # at the end of this file


@pytest.fixture(params=CASES, ids=str)
def schedule(request: pytest.FixtureRequest) -> dict:
    return request.param


def process_of(schedule: dict, num_levels: int = NUM_LEVELS) -> SpectralProcess:
    basis = DEGRADATION_SCHEDULES[schedule["kind"]].basis
    spec = {"kind": "spectral", "basis": basis, "schedule": {**schedule, "num_levels": num_levels}}
    process = build_process(spec, SHAPE)
    assert isinstance(process, SpectralProcess)
    return process


def blurring_process(**settings: float) -> SpectralProcess:
    process = build_process({"kind": "spectral", "basis": "dct", "schedule": {"kind": "blurring", **settings}}, SHAPE)
    assert isinstance(process, SpectralProcess)
    return process


def levels(num_levels: int = NUM_LEVELS) -> torch.Tensor:
    return torch.arange(num_levels + 1, dtype=torch.float64) / num_levels


def test_time_zero_is_the_clean_image_exactly(schedule: dict) -> None:
    m = process_of(schedule).marginal(0.0)
    assert (m.alpha == 1).all()
    assert (m.sigma == 0).all()


def test_noise_is_the_same_at_every_level(schedule: dict) -> None:
    sigma = process_of(schedule).marginal(levels()[1:]).sigma
    torch.testing.assert_close(sigma, torch.full_like(sigma, schedule.get("noise", 0.0)), rtol=0, atol=0)


def test_faded_images_end_exactly_at_the_centre(schedule: dict) -> None:
    alpha = process_of(schedule).marginal(1.0).alpha
    has_fade = schedule["kind"] == "dim" or schedule.get("fade", "none") != "none"
    ends_dark = has_fade or (schedule["kind"] == "masking" and schedule.get("with_zero_end", True))
    assert (alpha == 0).all() == ends_dark


@pytest.mark.parametrize("num_levels", [1, 2, 3, 6, 20, 200])
@pytest.mark.parametrize("schedule", [case for case in CASES if case not in PUBLISHED], ids=str)
def test_every_level_differs_from_its_neighbours(schedule: dict, num_levels: int) -> None:
    process = process_of(schedule, num_levels)
    alpha = process.marginal(levels(num_levels)).alpha
    changes = (alpha[1:] - alpha[:-1]).abs().amax(dim=1)
    assert changes.min() > 1e-5


def test_published_blur_levels_end_with_a_step_that_does_nothing() -> None:
    alpha = process_of({"kind": "heat", "levels": "vcd"}).marginal(levels()).alpha
    assert torch.equal(alpha[-1], alpha[-2])


def test_shapes_and_dtype(schedule: dict) -> None:
    process = process_of(schedule)
    found = process.schedule(torch.rand(5, dtype=torch.float64))
    assert found.alpha.shape == ((5, 1) if process.schedule.is_scalar else (5, process.dim))
    assert found.alpha.dtype == found.sigma.dtype == torch.float64


def test_levels_are_reached_from_both_sides(schedule: dict) -> None:
    process = process_of(schedule)
    inside = levels()[1:-1]
    exact = process.marginal(inside).alpha
    for side in (-1e-3, 1e-3):
        torch.testing.assert_close(process.marginal(inside + side).alpha, exact, rtol=0, atol=2e-2)


def test_times_in_single_precision_are_levels(schedule: dict) -> None:
    process = process_of(schedule, 200)
    single = process.marginal(levels(200).float())
    assert torch.equal(single.alpha, process.marginal(levels(200)).alpha)


def test_rates_are_the_slopes_between_levels(schedule: dict) -> None:
    process = process_of(schedule)
    between = levels()[:-1] + torch.linspace(0.3, 0.7, NUM_LEVELS) / NUM_LEVELS
    m, step = process.marginal(between), 1e-6
    ahead, behind = process.marginal(between + step), process.marginal(between - step)
    for rate, name in ((m.alpha_rate, "alpha"), (m.sigma_rate, "sigma")):
        slope = (getattr(ahead, name) - getattr(behind, name)) / (2 * step)
        torch.testing.assert_close(rate.expand_as(slope), slope, rtol=1e-5, atol=1e-6)


def test_the_process_knows_its_levels(schedule: dict) -> None:
    process = process_of(schedule)
    assert process.num_levels == NUM_LEVELS
    assert process.is_degradation
    assert process.schedule.kinks == tuple(k / NUM_LEVELS for k in range(1, NUM_LEVELS))


@pytest.mark.parametrize("bad", [-1e-9, 1.5, math.nan])
def test_times_outside_are_refused(schedule: dict, bad: float) -> None:
    with pytest.raises(ValueError, match="times must lie"):
        process_of(schedule).marginal(bad)


def test_a_row_does_not_depend_on_its_batch(schedule: dict) -> None:
    process = process_of(schedule)
    t = torch.rand(process.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = process.marginal(t).alpha
    for row in (3, 20):
        torch.testing.assert_close(together[row], process.marginal(t[row]).alpha[0], rtol=1e-13, atol=0)


def test_degrading_is_linear_and_keeps_the_dtype(schedule: dict) -> None:
    process = process_of(schedule)
    x, y = torch.randn(2, 4, *SHAPE, generator=torch.Generator().manual_seed(1)).unbind()
    t = levels()[[0, 1, 3, 6]]
    x_t, y_t, mixed = (process.degrade(process.basis.to_components(part), t) for part in (x, y, 2 * x - y))
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(mixed, 2 * x_t - y_t, rtol=0, atol=2e-5)
    torch.testing.assert_close(x_t[0], process.basis.to_components(x)[0])


def test_other_bases_are_refused(schedule: dict) -> None:
    right = DEGRADATION_SCHEDULES[schedule["kind"]].basis
    for basis in ("pixel", "dct", "fourier", "haar", "haar_dct", "colour"):
        spec = {"kind": "spectral", "basis": basis, "schedule": {**schedule, "num_levels": NUM_LEVELS}}
        if basis != right and schedule["kind"] != "dim":
            with pytest.raises(ConfigError, match=f"needs basis {right}, found {basis}"):
                build_process(spec, SHAPE)


def test_specification_survives_a_round_trip(schedule: dict) -> None:
    spec = parse(ScheduleUnion, {**schedule, "num_levels": NUM_LEVELS})
    assert parse(ScheduleUnion, spec.model_dump(mode="json")) == spec


def test_there_are_no_free_parameters(schedule: dict) -> None:
    with pytest.raises(ConfigError, match="no free parameters"):
        process_of(schedule).with_parameters(softness_a=1.0)


def test_process_survives_pickling(schedule: dict) -> None:
    process = process_of(schedule)
    copy = pickle.loads(pickle.dumps(process))
    assert torch.equal(copy.marginal(levels()).alpha, process.marginal(levels()).alpha)


def test_every_name_belongs_to_one_specification() -> None:
    names = [named.name for spec in DEGRADATION_SCHEDULES.values() for named in spec.names]
    assert all(before != after for before, after in itertools.pairwise(sorted(names)))


def test_blurring_has_noise_at_all_times_and_loses_the_signal() -> None:
    m = blurring_process().marginal(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert m.sigma.min() > 0.006
    assert (m.sigma.diff(dim=0) > 0).all()
    assert (m.alpha.diff(dim=0) < 0).all()
    assert 0 < m.alpha[-1].min() < m.alpha[-1].max() < 0.007
    torch.testing.assert_close(m.alpha[:, :1].square() + m.sigma.square(), torch.ones(101, 1, dtype=torch.float64))


def test_rates_of_blurring_are_derivatives() -> None:
    process, t, step = blurring_process(blur_max=3.0), torch.linspace(0.05, 0.95, 7, dtype=torch.float64), 1e-6
    m, ahead, behind = (process.marginal(t + shift) for shift in (0.0, step, -step))
    for rate, name in ((m.alpha_rate, "alpha"), (m.sigma_rate, "sigma")):
        slope = (getattr(ahead, name) - getattr(behind, name)) / (2 * step)
        torch.testing.assert_close(rate, slope, rtol=1e-6, atol=1e-8)


def test_blurring_is_no_degradation_and_needs_the_dct() -> None:
    process = blurring_process()
    assert process.num_levels is None
    assert not process.is_degradation
    assert process.schedule.kinks == ()
    with pytest.raises(ConfigError, match="needs basis dct, found pixel"):
        build_process({"kind": "spectral", "schedule": {"kind": "blurring"}}, SHAPE)
