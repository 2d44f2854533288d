"""Identities of the spectral process: composition, posterior, corruption, drift, prior."""

import math

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.processes import GaussianTerminal, Process

VARIANCES = torch.tensor([4.0, 0.1, 1.5, 0.02, 0.6, 0.3], dtype=torch.float64)
STATISTICS = Statistics(torch.linspace(-0.4, 0.6, 6), VARIANCES)
SCHEDULES = [
    {"kind": "vp"},
    {"kind": "linear_beta", "num_levels": 20},
    {"kind": "gud", "softness_a": 1.5},
    {"kind": "gud", "softness_a": 20.0},
    {"kind": "columns", "overlap_b": 0.5},
]
CASES = [(schedule, prior) for schedule in SCHEDULES for prior in ("standard", "data")]
GENERATOR = torch.Generator().manual_seed(0)


def process_of(schedule: dict, prior: str = "standard", centre: str = "grey") -> Process:
    spec = {"kind": "spectral", "basis": "pixel", "centre": centre, "prior": prior, "schedule": schedule}
    return build_process(spec, (6,), STATISTICS)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-10, atol: float = 1e-13) -> None:
    torch.testing.assert_close(found, expected.expand_as(found), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("schedule", "prior"), CASES)
def test_alpha_and_white_sigma_lie_on_the_circle(schedule: dict, prior: str) -> None:
    m = process_of(schedule, prior).marginal(torch.linspace(0, 1, 9, dtype=torch.float64))
    close(m.alpha.square() + (m.sigma / m.scale).square(), torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize(("schedule", "prior"), CASES)
def test_transition_carries_one_marginal_into_the_next(schedule: dict, prior: str) -> None:
    process = process_of(schedule, prior)
    for s, t in ((0.0, 0.3), (0.2, 0.7), (0.7, 1.0), (0.0, 1.0)):
        F, Q = process.transition(s, t)
        earlier, later = process.marginal(s), process.marginal(t)
        close(F[:, :, 0] * earlier.Phi, later.Phi)
        close(F * earlier.Sigma * F + Q, later.Sigma)


@pytest.mark.parametrize(("schedule", "prior"), CASES)
def test_transitions_compose(schedule: dict, prior: str) -> None:
    process = process_of(schedule, prior)
    (F1, Q1), (F2, Q2), (F, Q) = (
        process.transition(0.1, 0.4),
        process.transition(0.4, 0.9),
        process.transition(0.1, 0.9),
    )
    close(F2 * F1, F)
    close(F2 * Q1 * F2 + Q2, Q)


@pytest.mark.parametrize(("schedule", "prior"), CASES)
def test_posterior_is_the_closed_form_gaussian(schedule: dict, prior: str) -> None:
    process = process_of(schedule, prior)
    s, t = 0.35, 0.6
    u_t, x_0 = draw(4, 1, 6), draw(4, 6)
    mean, covariance = process.posterior(u_t, x_0, s, t)
    earlier, (F, Q) = process.marginal(s), process.transition(s, t)
    # Precisions add: u_s ~ N(alpha_s x_0, Sigma_s) seen through u_t = F u_s + N(0, Q).
    F, Q, Sigma = F[:, 0, 0], Q[:, 0, 0], earlier.Sigma[:, 0, 0]
    variance = Sigma * Q / (Q + F.square() * Sigma)
    expected = (earlier.alpha * x_0 * Q + F * u_t[:, 0] * Sigma) / (Q + F.square() * Sigma)
    close(covariance[:, 0, 0], variance, rtol=1e-9)
    close(mean[:, 0], expected, rtol=1e-9, atol=1e-11)


def test_posterior_equals_the_ancestral_step_of_ddpm() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    process, j = process_of({"kind": "linear_beta"}), 400
    x_t, x_0 = draw(3, 6), draw(3, 6)
    mean, covariance = process.posterior(x_t[:, None], x_0, j / 1000, (j + 1) / 1000)
    noise = 1 - alpha_bar[j]
    expected = (alpha_bar[j - 1].sqrt() * betas[j] * x_0 + (1 - betas[j]).sqrt() * (1 - alpha_bar[j - 1]) * x_t) / noise
    close(mean[:, 0], expected, rtol=1e-9)
    close(covariance.reshape(1), (betas[j] * (1 - alpha_bar[j - 1]) / noise).reshape(1), rtol=1e-9)


def test_step_to_clean_data_is_the_prediction() -> None:
    process = process_of({"kind": "vp"})
    x_0 = draw(2, 6)
    mean, covariance = process.posterior(draw(2, 1, 6), x_0, 0.0, 0.1)
    assert torch.equal(mean[:, 0], x_0)
    assert not covariance.any()


def test_resting_components_are_left_untouched_exactly() -> None:
    process = process_of({"kind": "columns", "overlap_b": 5 / 6})
    u_t, x_0 = draw(3, 1, 6), draw(3, 6)
    mean, covariance = process.posterior(u_t, x_0, 0.5, 0.52)
    F, Q = process.transition(0.5, 0.52)
    is_still = (process.marginal(0.5).gamma == process.marginal(0.52).gamma)[0]
    assert int(is_still.sum()) == 5
    assert torch.equal(mean[:, 0, is_still], u_t[:, 0, is_still])
    assert not covariance[..., is_still].any()
    assert torch.equal(F[..., is_still], torch.ones_like(F[..., is_still]))
    assert not Q[..., is_still].any()


def test_posterior_of_no_step_at_clean_data_is_finite() -> None:
    u = draw(2, 1, 6)
    mean, covariance = process_of({"kind": "vp"}).posterior(u, draw(2, 6), 0.0, 0.0)
    assert torch.equal(mean, u)
    assert not covariance.any()


@pytest.mark.parametrize(("schedule", "prior"), CASES)
def test_drift_is_the_derivative_of_the_moments(schedule: dict, prior: str) -> None:
    process = process_of(schedule, prior)
    t, h = 0.43, 1e-5
    A, G = (part[:, 0, 0] for part in process.drift(t))
    below, here, above = (process.marginal(time) for time in (t - h, t, t + h))
    # d log alpha / dt = A and d Sigma / dt = 2 A Sigma + G^2.
    close((above.log_alpha2 - below.log_alpha2) / (4 * h), A, rtol=1e-6, atol=1e-8)
    slope = (above.Sigma - below.Sigma)[:, 0, 0] / (2 * h)
    close(slope, 2 * A * here.Sigma[:, 0, 0] + G.square(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("basis", ["pixel", "dct", "fourier", "haar", "pca"])
def test_corruption_is_the_marginal_in_components(basis: str, prior: str) -> None:
    x = draw(40, 2, 4, 4)
    spec = {"kind": "spectral", "basis": basis, "centre": "mean", "prior": prior, "schedule": {"kind": "gud"}}
    process = build_process(spec, (2, 4, 4), Statistics.of(x, basis))
    t, noise = torch.rand(40, generator=GENERATOR, dtype=torch.float64), draw(40, 2, 4, 4)
    m = process.marginal(t)
    expected = m.alpha * process.to_components(x) + m.sigma * process.basis.to_components(noise)
    close(process.to_components(process.corrupt(x, t, noise)), expected)


def test_corruption_keeps_float32() -> None:
    x = draw(2, 6).float()
    assert process_of({"kind": "gud"}, "data").corrupt(x, 0.3, x).dtype == torch.float32


def test_extreme_noise_levels_stay_finite_in_float32() -> None:
    process = process_of({"kind": "gud", "softness_a": 40.0})
    assert process.marginal(0.5).gamma.abs().max() > 100
    x = draw(2, 6).float()
    for t in (0.0, 0.5, 1.0):
        assert process.corrupt(x, t, x).isfinite().all()


@pytest.mark.parametrize("prior", ["standard", "data"])
def test_as_many_rows_as_components_are_still_rows(prior: str) -> None:
    for schedule in SCHEDULES:
        process = process_of(schedule, prior)
        x, noise, t = draw(6, 6), draw(6, 6), torch.linspace(0, 1, 6, dtype=torch.float64)
        together = process.corrupt(x, t, noise)
        for row in range(6):
            close(together[row : row + 1], process.corrupt(x[row : row + 1], t[row], noise[row : row + 1]))


@pytest.mark.parametrize("centre", ["grey", "black", "mean"])
def test_centre_goes_to_zero_components(centre: str) -> None:
    process = process_of({"kind": "vp"}, centre=centre)
    expected = {"grey": torch.zeros(6), "black": -torch.ones(6), "mean": STATISTICS.mean}[centre].double()
    assert torch.equal(process.centre, expected)
    assert not process.to_components(process.centre[None]).any()
    assert torch.equal(process.to_data(torch.zeros(1, 6, dtype=torch.float64))[0], expected)
    assert torch.equal(process.mean_components, STATISTICS.mean - expected)


def test_affine_maps_are_inverse_to_each_other() -> None:
    process, x = process_of({"kind": "vp"}, centre="mean"), draw(3, 6)
    close(process.to_data(process.to_components(x)), x)


def test_prior_is_the_standard_normal_or_the_data_variance() -> None:
    u = draw(3, 1, 6)
    for prior, variances in (("standard", torch.ones(6).double()), ("data", VARIANCES)):
        normal = torch.distributions.Normal(torch.zeros(6).double(), variances.sqrt())
        close(process_of({"kind": "vp"}, prior).prior_log_prob(u), normal.log_prob(u[:, 0]).sum(dim=1))


def test_terminal_density_replaces_the_prior() -> None:
    u, mean = draw(3, 1, 6), torch.arange(6, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, VARIANCES.sqrt()).log_prob(u[:, 0]).sum(dim=1)
    by_settings = {"kind": "gaussian", "mean": mean.tolist(), "variances": VARIANCES.tolist()}
    for terminal in (by_settings, GaussianTerminal(mean, VARIANCES)):
        process = build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, (6,), terminal=terminal)
        close(process.prior_log_prob(u), expected)


def test_terminal_of_another_size_is_refused() -> None:
    terminal = {"kind": "gaussian", "mean": [0.0], "variances": [1.0]}
    with pytest.raises(ConfigError, match="6 entries"):
        build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, (6,), terminal=terminal)


def test_log_snr_without_statistics_is_minus_gamma() -> None:
    m = build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, (6,)).marginal(0.4)
    assert torch.equal(m.log_snr, -m.gamma)


def test_times_may_be_numbers_scalars_or_rows() -> None:
    process = process_of({"kind": "vp"})
    one = process.marginal(0.25).gamma
    assert torch.equal(process.marginal(torch.tensor(0.25)).gamma, one)
    assert torch.equal(process.marginal(torch.tensor([0.25, 0.25])).gamma, one.expand(2, 1))


def test_with_parameters_leaves_the_original_alone() -> None:
    process = process_of({"kind": "gud"})
    before = process.marginal(0.3).gamma
    process.with_parameters(softness_a=3.0)
    assert torch.equal(process.marginal(0.3).gamma, before)


@pytest.mark.parametrize(
    "settings",
    [{"prior": "data"}, {"centre": "mean"}, {"basis": "pca"}, {"schedule": {"kind": "gud"}}],
)
def test_missing_statistics_are_named(settings: dict) -> None:
    with pytest.raises(ConfigError, match="needs data statistics"):
        build_process({"kind": "spectral", "schedule": {"kind": "vp"}, **settings}, (6,))


def test_statistics_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="statistics are of 6 components"):
        build_process({"kind": "spectral", "schedule": {"kind": "vp"}}, (5,), STATISTICS)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "spectral", "schedule": {"kind": "cosin"}}, "did you mean cosine"),
        ({"kind": "spectral", "bases": "dct", "schedule": {"kind": "vp"}}, "did you mean basis"),
        ({"kind": "spectral"}, "schedule"),
        ({"kind": "spectral", "schedule": {"kind": "log_linear", "gamma_min": math.inf}}, "finite"),
    ],
)
def test_wrong_specifications_are_explained(spec: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_process(spec, (6,))
