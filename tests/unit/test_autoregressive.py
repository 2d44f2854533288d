"""The autoregressive limit: components in turn, each a scalar diffusion of its own, and the law of what they give."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion import build_kernel, build_process, sample
from pipeline.diffusion.sampling import time_grid
from pipeline.diffusion.windows import window_grid
from tests.diffusion_cases import affine, gaussian_oracle, keyed_noise, slow, vector_process

DATA, PRIOR = 6.0, -5.0
RANGE = DATA - PRIOR
VARIANCES = torch.tensor([4.0, 0.1, 1.5, 0.02, 0.6], dtype=torch.float64)
DIM = len(VARIANCES)
LIMITS = [RANGE, RANGE + 2.0, 3 * RANGE]
"""softness_a: as small as it may be, and larger, which leaves time between the windows."""


def in_turn(softness_a: float = RANGE, **changes: Any) -> dict[str, Any]:
    limit = {"kind": "gud", "ordering": "rank", "clip": True, "softness_a": softness_a}
    return limit | {"log_snr_data": DATA, "log_snr_prior": PRIOR} | changes


def columns(count: int, overlap_b: float, shape: tuple[int, ...] | None = None) -> Any:
    schedule = {"kind": "columns", "overlap_b": overlap_b}
    return build_process({"kind": "spectral", "schedule": schedule}, shape or (1, 2, count))


def pieces(process: Any) -> tuple[Tensor, Tensor]:
    """Borders of the pieces between kinks, and which components move in each."""
    borders = torch.tensor([0.0, *process.schedule.kinks, 1.0], dtype=torch.float64)
    gamma = process.marginal(borders).gamma
    return borders, gamma[1:] != gamma[:-1]


def with_matching_end(process: Any) -> Tensor:
    """Deviation of c_1 for the process's own data."""
    end = process.marginal(1.0)
    return torch.sqrt(end.alpha.square() * process.variances + end.sigma.square())[0]


# --- who moves when


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("softness_a", LIMITS)
def test_at_most_one_component_moves_between_two_kinks(softness_a, prior):
    _, moving = pieces(vector_process(in_turn(softness_a), VARIANCES, prior=prior))
    assert int(moving.sum(dim=1).max()) == 1
    assert torch.equal(moving.sum(dim=0), torch.ones(DIM, dtype=torch.int64))
    assert bool(moving.any(dim=1).all()) == (softness_a == RANGE)


@pytest.mark.parametrize("softness_a", LIMITS)
def test_at_most_one_component_has_a_rate_at_any_time_but_a_kink(softness_a):
    process = vector_process(in_turn(softness_a), VARIANCES)
    times = torch.linspace(0.0, 1.0, 10_007, dtype=torch.float64)
    kinks = torch.tensor(process.schedule.kinks, dtype=torch.float64)
    off = ((times[:, None] - kinks).abs() > 1e-9).all(dim=1)
    assert int((process.marginal(times[off]).d_gamma > 0).sum(dim=1).max()) == 1


def test_at_a_kink_two_neighbours_have_a_rate_and_one_is_done_where_the_other_begins():
    process = vector_process(in_turn(), VARIANCES)
    order = torch.argsort(VARIANCES, descending=True)  # component 0 of this order is generated first
    kinks = process.schedule.kinks
    low, high = (process.marginal(t).gamma[0, order] for t in (0.0, 1.0))
    for place, kink in enumerate(reversed(kinks)):
        at = process.marginal(kink)
        assert (at.d_gamma[0, order] > 0).nonzero().flatten().tolist() == [place, place + 1]
        assert torch.equal(at.gamma[0, order[: place + 1]], low[: place + 1])
        assert torch.equal(at.gamma[0, order[place + 1 :]], high[place + 1 :])


@pytest.mark.parametrize("softness_a", LIMITS)
def test_kinks_are_the_ends_of_windows_in_closed_form(softness_a):
    process = vector_process(in_turn(softness_a), VARIANCES)
    total = RANGE + softness_a * (DIM - 1)
    begins = [softness_a * (DIM - 1 - rank) / total for rank in range(DIM)]
    ends = [begin + RANGE / total for begin in begins]
    expected = sorted({round(t, 12) for t in (*begins, *ends) if 1e-9 < t < 1 - 1e-9})
    assert list(process.schedule.kinks) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("softness_a", LIMITS)
def test_a_component_is_active_for_its_share_of_the_time(softness_a):
    borders, moving = pieces(vector_process(in_turn(softness_a), VARIANCES))
    share = RANGE / (RANGE + softness_a * (DIM - 1))
    torch.testing.assert_close(
        borders.diff() @ moving.double(), torch.full((DIM,), share, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_a_little_less_softness_a_and_neighbours_move_together():
    _, moving = pieces(vector_process(in_turn(RANGE - 1e-3), VARIANCES))
    assert int(moving.sum(dim=1).max()) == 2


def test_components_of_equal_label_stay_jointly_diffused():
    tied = vector_process(in_turn(100 * RANGE, ordering="variance"), torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64))
    _, moving = pieces(tied)
    assert moving[:, 1:].all(dim=1).any()
    assert torch.equal(moving[:, 1], moving[:, 2])
    ranked = vector_process(in_turn(), torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64))
    assert int(pieces(ranked)[1].sum(dim=1).max()) == 1


@pytest.mark.parametrize("dim", [300, slow(3072)])
def test_thousands_of_components_take_turns_exactly(dim):
    variances = torch.logspace(1.5, -4.0, dim, dtype=torch.float64)
    process = vector_process(in_turn(1.3 * RANGE), variances)
    kinks = process.schedule.kinks
    assert len(kinks) == 2 * (dim - 1)
    for first in range(0, len(kinks), max(1, len(kinks) // 40)):
        at = process.marginal(torch.tensor(kinks[first : first + 2], dtype=torch.float64))
        assert (at.d_gamma > 0).sum(dim=1).tolist() == [1] * len(at.gamma)
        at_rest = (at.gamma == process.marginal(0.0).gamma) | (at.gamma == process.marginal(1.0).gamma)
        assert bool(at_rest.all())


@pytest.mark.parametrize("count", [3, 7, 8, 28, 32, 64])
def test_columns_take_turns_at_the_largest_overlap(count):
    process = columns(count, (count - 1) / count)
    borders, moving = pieces(process)
    torch.testing.assert_close(borders, torch.arange(count + 1, dtype=torch.float64) / count, rtol=0, atol=1e-14)
    label = process.basis.column
    assert [label[row].unique().tolist() for row in moving] == [[count - 1 - i] for i in range(count)]


@pytest.mark.parametrize("count", [3, 7, 8, 28, 32, 64])
def test_more_overlap_than_that_leaves_dead_time_and_is_refused(count):
    with pytest.raises(ConfigError, match="dead time"):
        columns(count, (count - 1) / count + 1e-9)


# --- what comes out


def scalar_variance(index: int, kernel: dict[str, Any], prior: str, steps: int) -> Tensor:
    """Output variance of one component walked by itself through its range of noise levels, from its matching end."""
    low = -DATA + (0.0 if prior == "data" else math.log(float(VARIANCES[index])))
    schedule = {"kind": "log_linear", "gamma_min": low, "gamma_max": low + RANGE}
    process = vector_process(schedule, VARIANCES[index : index + 1], prior=prior)
    return output_covariance(process, kernel, time_grid(steps))[0, 0]


def output_covariance(process: Any, kernel: dict[str, Any], times: Tensor) -> Tensor:
    """Exact covariance of the samples of a Gaussian oracle that start with the law of c_1."""

    def draw(noise: Any, x: Tensor) -> Tensor:
        found = sample(
            process, build_kernel(kernel), gaussian_oracle(process), with_matching_end(process) * x, times, noise
        )
        assert isinstance(found, Tensor)
        return found

    _, of_x, spread = affine(draw, tuple(process.shape))
    return of_x @ of_x.T + spread


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("kernel", ["ddim", "euler", "heun", "ancestral"])
@pytest.mark.parametrize("softness_a", [RANGE, 3 * RANGE])
def test_every_component_goes_through_the_scalar_diffusion_of_its_own(softness_a, kernel, prior):
    process, steps = vector_process(in_turn(softness_a), VARIANCES, prior=prior), 7
    found = output_covariance(process, {"kind": kernel}, window_grid(process, steps))
    alone = torch.stack([scalar_variance(i, {"kind": kernel}, prior, steps) for i in range(DIM)])
    torch.testing.assert_close(found, torch.diag(alone), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize(("kernel", "order", "error"), [("ddim", 1, 0.07), ("heun", 2, 6e-3), ("ancestral", 1, 0.13)])
def test_covariance_tends_to_that_of_the_data_with_the_steps_in_a_window(kernel, order, error, prior):
    process = vector_process(in_turn(), VARIANCES[1:4], prior=prior)
    end = process.marginal(0.0)  # the path ends at the smallest noise level
    expected = (end.alpha.square() * process.variances + end.sigma.square())[0]
    errors = []
    for steps in (20, 40):
        found = output_covariance(process, {"kind": kernel}, window_grid(process, steps))
        assert float((found - torch.diag(found.diagonal())).abs().max()) < 1e-12
        errors.append(float((found.diagonal() / expected - 1).abs().max()))
    assert errors[1] < error
    if (kernel, prior) != ("heun", "data"):  # in white coordinates the flow of Gaussian data is at rest
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("prior", ["standard", "data"])
def test_ancestral_samples_have_the_covariance_of_the_closed_form(prior):
    num_images, kernel = 4000, {"kind": "ancestral"}
    process = vector_process(in_turn(), VARIANCES[1:4], prior=prior)
    times = window_grid(process, 10)
    x_T = with_matching_end(process) * torch.randn(num_images, 3, generator=torch.Generator().manual_seed(2)).double()
    found = torch.cov(sample(process, build_kernel(kernel), gaussian_oracle(process), x_T, times, keyed_noise).T)
    expected = output_covariance(process, kernel, times)
    scale = expected.diagonal().sqrt()
    error = (found - expected) / torch.outer(scale, scale) / torch.sqrt((1 + torch.eye(3)) / num_images)
    assert float(error.abs().max()) < 4


def test_components_of_small_variance_are_not_quite_noise_at_the_end_of_a_clipped_path():
    """All log SNR end at p = log_snr_prior: a component of variance V has V (1 + e^-p) / (1 + V e^-p) at t = 1.

    A start from N(0, 1) makes the samples wider by as much; log_snr_prior far below log V avoids it.
    """
    process, kernel = vector_process(in_turn(), VARIANCES), build_kernel({"kind": "ddim"})
    unit = torch.ones(1, DIM, dtype=torch.float64)
    from_prior, from_end = (
        sample(process, kernel, gaussian_oracle(process), x_T, window_grid(process, 5))
        for x_T in (unit, with_matching_end(process) * unit)
    )
    at_end = VARIANCES * (1 + math.exp(-PRIOR)) / (1 + VARIANCES * math.exp(-PRIOR))
    torch.testing.assert_close((from_prior / from_end).square(), 1 / at_end[None], rtol=1e-12, atol=0)
    assert float(at_end.min()) < 0.76
    far = vector_process(in_turn(log_snr_prior=-15.0, softness_a=DATA + 15.0), VARIANCES)
    torch.testing.assert_close(with_matching_end(far), unit[0], rtol=0, atol=1e-5)


def test_heun_keeps_its_order_on_a_grid_with_the_kinks_alone():
    process = vector_process(in_turn(1.4 * RANGE), VARIANCES)
    end = process.marginal(0.0)
    expected = (end.alpha.square() * process.variances + end.sigma.square())[0]

    def error(times: Tensor) -> float:
        return float((output_covariance(process, {"kind": "heun"}, times).diagonal() / expected - 1).abs().max())

    grids = [window_grid(process, steps) for steps in (12, 24)]
    aligned = [error(grid) for grid in grids]
    uniform = [error(time_grid(len(grid) - 1)) for grid in grids]
    assert math.log2(aligned[0] / aligned[1]) == pytest.approx(2, abs=0.25)
    assert uniform[1] > 3 * aligned[1]
