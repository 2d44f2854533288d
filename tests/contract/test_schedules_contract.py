"""What every noise schedule of the table promises, at t = 0 and t = 1 included."""

import math
import pickle

import pytest
import torch

from pipeline.config import ConfigError, parse
from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.processes import Process
from pipeline.diffusion.schedules import NOISE_SCHEDULES, ScheduleUnion

VARIANTS: dict[str, list[dict]] = {
    "linear_beta": [{}, {"num_levels": 7}, {"num_levels": 1, "beta_min": 0.5, "beta_max": 0.5}],
    "betas": [{"values": [0.4, 0.1, 0.9]}],
    "cosine": [{}, {"normalised": False}, {"num_levels": 10}],
    "sigmoid": [{}, {"tau": 0.3, "start": -1.0}, {"num_levels": 10}],
    "vp": [{}],
    "log_linear": [{}],
    "gud": [
        {"softness_a": 0.5},
        {"softness_a": 20.0},
        {"softness_a": 20.0, "clip": True},
        {"ordering": "rank", "softness_a": 14.0, "clip": True},
        {"ordering_r": 0.7},
    ],
    "columns": [{}, {"overlap_b": 0.0}, {"axis": "row", "overlap_b": 0.75}],
    "haar_columns": [{}, {"level_offset": 0.0, "overlap_b": 0.0}],
}
CASES = [{"kind": kind, **settings} for kind, variants in VARIANTS.items() for settings in variants]
SHAPE = (2, 4, 4)


def test_every_kind_has_a_case() -> None:
    assert set(VARIANTS) == set(NOISE_SCHEDULES)


@pytest.fixture(params=CASES, ids=str)
def schedule(request: pytest.FixtureRequest) -> dict:
    return request.param


def process_of(schedule: dict, prior: str = "standard") -> Process:
    basis = {"columns": "pixel", "haar_columns": "haar"}.get(schedule["kind"], "dct")
    scales = torch.linspace(-6, 3, 32, dtype=torch.float64).exp()
    statistics = Statistics(torch.linspace(-0.5, 0.5, 32), scales[torch.arange(32) * 11 % 32])
    return build_process({"kind": "spectral", "basis": basis, "prior": prior, "schedule": schedule}, SHAPE, statistics)


def smooth_times(process: Process) -> torch.Tensor:
    """Times at least 1e-4 away from 0, 1 and every kink."""
    t = torch.linspace(0.003, 0.997, 41, dtype=torch.float64)
    kinks = torch.tensor([0.0, *process.schedule.kinks, 1.0], dtype=torch.float64)
    return t[(t[:, None] - kinks).abs().amin(dim=1) > 1e-4]


@pytest.mark.parametrize("prior", ["standard", "data"])
def test_nothing_is_nan_at_the_ends(schedule: dict, prior: str) -> None:
    m = process_of(schedule, prior).marginal(torch.tensor([0.0, 1.0], dtype=torch.float64))
    for field in ("gamma", "d_gamma", "beta", "alpha", "sigma", "log_snr", "log_alpha2", "log_sigma2", "Phi", "Sigma"):
        assert not getattr(m, field).isnan().any(), field
    for field in ("beta", "alpha", "sigma", "log_alpha2", "Phi", "Sigma"):
        assert getattr(m, field).isfinite().all(), field
    assert m.gamma[1].isfinite().all()
    assert (m.alpha[1] > 0).all()


def test_gamma_never_falls(schedule: dict) -> None:
    gamma = process_of(schedule).marginal(torch.linspace(0, 1, 301, dtype=torch.float64)).gamma
    assert (gamma[1:] >= gamma[:-1] - 1e-12).all()


def test_shapes_and_dtype(schedule: dict) -> None:
    process = process_of(schedule)
    level = process.schedule(torch.rand(5, dtype=torch.float64))
    expected = (5, 1) if process.schedule.is_scalar else (5, process.dim)
    for field in (level.gamma, level.d_gamma, level.beta):
        assert field.shape == expected
        assert field.dtype == torch.float64


def test_derivative_is_the_gradient_away_from_kinks(schedule: dict) -> None:
    process = process_of(schedule)
    t = smooth_times(process).requires_grad_()
    assert len(t) > 0, "every time is near a kink"
    level = process.schedule(t)
    for component in range(0, level.gamma.shape[1], 5):
        (slope,) = torch.autograd.grad(level.gamma[:, component].sum(), t, retain_graph=True)
        torch.testing.assert_close(level.d_gamma[:, component], slope, rtol=1e-9, atol=1e-9)


def test_beta_is_noise_variance_times_derivative(schedule: dict) -> None:
    process = process_of(schedule)
    level = process.schedule(smooth_times(process))
    torch.testing.assert_close(level.beta, torch.sigmoid(level.gamma) * level.d_gamma, rtol=1e-12, atol=0)


def test_kinks_are_rising_times_inside(schedule: dict) -> None:
    kinks = process_of(schedule).schedule.kinks
    assert all(0 < kink < 1 for kink in kinks)
    assert list(kinks) == sorted(set(kinks))


def test_derivative_is_steady_between_kinks(schedule: dict) -> None:
    process = process_of(schedule)
    borders = [0.0, *process.schedule.kinks, 1.0]
    widest = max(range(len(borders) - 1), key=lambda i: borders[i + 1] - borders[i])
    low, high = borders[widest], borders[widest + 1]
    # Dense enough that a jump of d_gamma inside the piece would be a jump of the chord slopes too.
    t = torch.linspace(low + 0.2 * (high - low), high - 0.2 * (high - low), 400, dtype=torch.float64)
    d_gamma = process.schedule(t).d_gamma
    assert (d_gamma[1:] - d_gamma[:-1]).abs().max() <= 0.1 * (1 + d_gamma.abs().max())


@pytest.mark.parametrize("bad", [-1e-9, 1.5, math.nan])
def test_times_outside_are_refused(schedule: dict, bad: float) -> None:
    with pytest.raises(ValueError, match="times must lie"):
        process_of(schedule).marginal(bad)


def test_a_row_does_not_depend_on_its_batch(schedule: dict) -> None:
    process = process_of(schedule)
    t = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(process.marginal(t).gamma[3], process.marginal(t[3]).gamma[0], rtol=1e-13, atol=0)


def test_batch_of_dim_times_is_not_mistaken_for_components(schedule: dict) -> None:
    process = process_of(schedule)
    t = torch.linspace(0, 1, process.dim, dtype=torch.float64)
    c = torch.ones(process.dim, process.dim, dtype=torch.float64)
    together = process.marginal(t).alpha * c
    for row in (3, 20):
        alone = (process.marginal(t[row]).alpha * c[row])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-13, atol=0)


def test_specification_survives_a_round_trip(schedule: dict) -> None:
    spec = parse(ScheduleUnion, schedule)
    assert parse(ScheduleUnion, spec.model_dump(mode="json")) == spec


def test_only_gud_has_free_parameters(schedule: dict) -> None:
    if schedule["kind"] != "gud":
        with pytest.raises(ConfigError, match="no free parameters"):
            process_of(schedule).with_parameters(softness_a=1.0)


def test_process_survives_pickling(schedule: dict) -> None:
    process = process_of(schedule)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    copy = pickle.loads(pickle.dumps(process))
    assert torch.equal(copy.marginal(t).sigma, process.marginal(t).sigma)
