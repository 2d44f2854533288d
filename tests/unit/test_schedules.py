"""What single schedules are defined by."""

import math

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.processes import Process

VARIANCES = torch.tensor([4.0, 0.1, 1.5, 0.02, 0.6, 0.3], dtype=torch.float64)


def process_of(schedule: dict, shape: tuple[int, ...] = (6,), basis: str = "pixel", prior: str = "standard") -> Process:
    dim = math.prod(shape)
    statistics = Statistics(torch.zeros(dim), VARIANCES.repeat(math.ceil(dim / 6))[:dim])
    return build_process({"kind": "spectral", "basis": basis, "prior": prior, "schedule": schedule}, shape, statistics)


def at(process: Process, *times: float) -> torch.Tensor:
    return process.marginal(torch.tensor(times, dtype=torch.float64)).gamma


# --- discrete systems


def test_level_j_lies_at_j_plus_one_over_T() -> None:
    betas = [0.3, 0.1, 0.5, 0.2]
    m = process_of({"kind": "betas", "values": betas}).marginal(torch.arange(1, 5, dtype=torch.float64) / 4)
    alpha_bar = torch.tensor([0.7, 0.7 * 0.9, 0.7 * 0.9 * 0.5, 0.7 * 0.9 * 0.5 * 0.8], dtype=torch.float64)
    torch.testing.assert_close(m.alpha[:, 0].square(), alpha_bar, rtol=1e-14, atol=0)


def test_discrete_data_are_clean_at_zero() -> None:
    m = process_of({"kind": "linear_beta"}).marginal(0.0)
    assert float(m.gamma) == -math.inf
    assert float(m.alpha) == 1.0
    assert float(m.sigma) == 0.0


def test_below_the_first_level_alpha_bar_is_linear() -> None:
    process = process_of({"kind": "betas", "values": [0.4, 0.5]})
    alpha_bar = process.marginal(torch.tensor([0.0, 0.125, 0.25, 0.5], dtype=torch.float64)).alpha.square()[:, 0]
    expected = torch.tensor([1.0, 0.9, 0.8, 0.6], dtype=torch.float64)
    torch.testing.assert_close(alpha_bar, expected, rtol=1e-14, atol=0)


def test_between_levels_gamma_is_linear() -> None:
    gamma = at(process_of({"kind": "betas", "values": [0.4, 0.5, 0.6]}), 1 / 3, 1 / 2, 2 / 3)[:, 0]
    torch.testing.assert_close(gamma[1], (gamma[0] + gamma[2]) / 2, rtol=1e-13, atol=0)


def test_discrete_cosine_cuts_its_betas() -> None:
    process = process_of({"kind": "cosine", "num_levels": 1000})
    _, Q = process.transition(0.999, 1.0)
    torch.testing.assert_close(Q.reshape(()), torch.tensor(0.999, dtype=torch.float64), rtol=1e-12, atol=0)
    assert 19.8 < float(at(process, 1.0)) < 19.9


@pytest.mark.parametrize("kind", ["cosine", "sigmoid"])
def test_discrete_levels_follow_the_continuous_schedule(kind: str) -> None:
    t = [0.1, 0.5, 0.9]
    discrete, continuous = process_of({"kind": kind, "num_levels": 10}), process_of({"kind": kind})
    torch.testing.assert_close(at(discrete, *t), at(continuous, *t), rtol=1e-11, atol=1e-11)


def test_unnormalised_cosine_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="normalised: true"):
        process_of({"kind": "cosine", "normalised": False, "num_levels": 10})


@pytest.mark.parametrize("kind", ["cosine", "sigmoid"])
def test_diverging_schedules_end_at_gamma_max(kind: str) -> None:
    assert float(at(process_of({"kind": kind}), 1.0)) == 20.0
    assert float(at(process_of({"kind": kind, "gamma_max": 9.0}), 1.0)) == 9.0


def test_sigmoid_is_the_published_formula() -> None:
    t = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    m = process_of({"kind": "sigmoid", "start": -3.0, "end": 3.0, "tau": 0.9}).marginal(t)
    start, end, now = (
        torch.sigmoid(x / 0.9) for x in (torch.tensor(-3.0).double(), torch.tensor(3.0).double(), 6 * t - 3)
    )
    torch.testing.assert_close(m.alpha[:, 0].square(), (end - now) / (end - start), rtol=1e-12, atol=0)


# --- component-wise linear


def gud(**settings: object) -> dict:
    return {"kind": "gud", "log_snr_data": 6.0, "log_snr_prior": -5.0, **settings}


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("a", [0.0, 0.6, 1.0, 5.0])
def test_extreme_log_snr_are_the_asked_ones(a: float, prior: str) -> None:
    log_snr = process_of(gud(softness_a=a), prior=prior).marginal(torch.tensor([0.0, 1.0]).double()).log_snr
    torch.testing.assert_close(log_snr[0].min().item(), 6.0, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_snr[1].max().item(), -5.0, rtol=1e-12, atol=0)


def test_both_priors_share_their_log_snr_paths() -> None:
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    paths = [process_of(gud(softness_a=1.3), prior=prior).marginal(t).log_snr for prior in ("standard", "data")]
    torch.testing.assert_close(paths[0], paths[1], rtol=0, atol=1e-13)


def test_zero_softness_a_has_no_hierarchy() -> None:
    log_snr = process_of(gud(softness_a=0.0)).marginal(0.3).log_snr
    torch.testing.assert_close(log_snr, log_snr[:, :1].expand_as(log_snr), rtol=0, atol=1e-13)


@pytest.mark.parametrize("basis", ["pixel", "dct", "fourier", "haar", "pca"])
def test_standard_diffusion_is_the_log_linear_schedule(basis: str) -> None:
    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(-1).cumsum(-2)
    statistics = Statistics.of(x, basis)
    ends = {
        "gamma_min": math.log(float(statistics.variances.min())) - 6.0,
        "gamma_max": math.log(float(statistics.variances.max())) + 5.0,
    }
    softened, scalar = (
        build_process({"kind": "spectral", "basis": basis, "schedule": schedule}, (1, 4, 4), statistics)
        for schedule in (gud(), {"kind": "log_linear", **ends})
    )
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert (softened.marginal(t).gamma - scalar.marginal(t).gamma).abs().max() <= 4e-15


def test_rank_order_with_clip_moves_one_component_at_a_time() -> None:
    process = process_of(gud(ordering="rank", softness_a=11.0, clip=True))
    moving = (process.marginal(torch.linspace(0, 1, 200, dtype=torch.float64)).d_gamma > 0).sum(dim=1)
    assert int(moving.max()) == 1


def test_largest_variance_is_noised_last() -> None:
    log_snr = process_of(gud(softness_a=3.0)).marginal(0.5).log_snr[0]
    assert int(log_snr.argmax()) == int(VARIANCES.argmax())


def test_list_ordering_is_taken_as_given() -> None:
    labels = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    log_snr = process_of(gud(ordering=labels)).marginal(0.4).log_snr[0]
    torch.testing.assert_close(log_snr.diff(), torch.full((5,), -1.0, dtype=torch.float64), rtol=1e-12, atol=0)


def test_frequency_ordering_is_ordering_r_one() -> None:
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    by_name = process_of(gud(ordering="frequency", softness_a=1.7)).marginal(t).gamma
    by_parameter = process_of(gud(ordering_r=1.0, softness_a=1.7)).marginal(t).gamma
    torch.testing.assert_close(by_name, by_parameter, rtol=0, atol=1e-13)


def test_frequency_label_spans_the_range_of_minus_log_variance() -> None:
    process = process_of(gud(ordering="frequency"))
    label = process.schedule.label
    expected = torch.log1p(torch.arange(6, dtype=torch.float64)) / math.log(6)
    span = math.log(float(VARIANCES.max() / VARIANCES.min()))
    torch.testing.assert_close(label, expected * span - math.log(float(VARIANCES.max())), rtol=1e-12, atol=1e-12)


def test_rows_of_parameters_are_answered_row_by_row() -> None:
    process = process_of(gud(clip=True))
    a, r = torch.tensor([[0.3], [1.0], [4.0]]).double(), torch.tensor([[0.0], [1.0], [0.4]]).double()
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    together = process.with_parameters(softness_a=a, ordering_r=r).marginal(t)
    for row in range(3):
        alone = process.with_parameters(softness_a=float(a[row]), ordering_r=float(r[row])).marginal(t[row])
        for field in ("gamma", "d_gamma", "sigma", "log_snr"):
            torch.testing.assert_close(getattr(together, field)[row], getattr(alone, field)[0], rtol=1e-13, atol=0)


def test_as_many_rows_as_components_are_still_rows() -> None:
    a = torch.linspace(0, 2, 6, dtype=torch.float64)[:, None]
    together = process_of(gud()).with_parameters(softness_a=a).marginal(torch.full((6,), 0.5).double()).gamma
    for row in range(6):
        alone = process_of(gud(softness_a=float(a[row]))).marginal(0.5).gamma[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ordering": "level"}, "have no level"),
        ({"ordering": [1.0, 2.0]}, "needs 6 labels"),
        ({"ordering": "rank", "ordering_r": 0.5}, "needs ordering: variance"),
        ({"log_snr_data": -7.0}, "log_snr_prior must be smaller"),
    ],
)
def test_impossible_gud_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        process_of(gud(**settings))


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match="softness_a and ordering_r"):
        process_of(gud()).with_parameters(softness=1.0)


def test_ordering_r_needs_ordering_variance_also_later() -> None:
    with pytest.raises(ConfigError, match="ordering_r needs"):
        process_of(gud(ordering="rank")).with_parameters(ordering_r=0.5)


# --- sequential


def test_columns_are_generated_from_the_first() -> None:
    gamma = at(process_of({"kind": "columns", "overlap_b": 0.5}, (1, 2, 3)), 0.5).reshape(2, 3)
    assert (gamma.diff(dim=1) > 0).all()
    assert torch.equal(gamma[0], gamma[1])


def test_exactly_sequential_columns_take_turns() -> None:
    process = process_of({"kind": "columns", "overlap_b": 5 / 6})
    moving = (process.marginal(torch.linspace(0.001, 0.999, 500, dtype=torch.float64)).d_gamma > 0).sum(dim=1)
    assert torch.equal(moving, torch.ones(500, dtype=torch.int64))


def test_waiting_and_finished_components_stay_exactly_still() -> None:
    gamma = at(process_of({"kind": "columns", "overlap_b": 5 / 6, "gamma_min": -9.1, "gamma_max": 4.7}), 0.5, 0.51)
    assert (gamma[0] == gamma[1]).sum() >= 4
    assert set(gamma[0, [0, 5]].tolist()) == {-9.1, 4.7}


@pytest.mark.parametrize(
    ("schedule", "basis"),
    [
        ({"kind": "columns", "overlap_b": 0.8}, "pixel"),
        ({"kind": "haar_columns", "overlap_b": 0.8}, "haar"),
        ({"kind": "haar_columns", "level_offset": 0.7}, "haar"),
    ],
)
def test_dead_time_is_refused(schedule: dict, basis: str) -> None:
    with pytest.raises(ConfigError, match="dead time"):
        process_of(schedule, (1, 4, 4), basis)


@pytest.mark.parametrize(("kind", "basis"), [("columns", "haar"), ("haar_columns", "pixel")])
def test_sequential_schedules_name_their_basis(kind: str, basis: str) -> None:
    with pytest.raises(ConfigError, match="needs basis"):
        process_of({"kind": kind}, (1, 4, 4), basis)


def test_haar_scales_without_columns_move_together() -> None:
    gamma = at(process_of({"kind": "haar_columns", "level_offset": 0.5, "overlap_b": 0.0}, (1, 4, 4), "haar"), 0.5)
    level = process_of({"kind": "vp"}, (1, 4, 4), "haar").basis.level
    assert level is not None
    assert all(gamma[0, level == j].unique().numel() == 1 for j in range(3))
    assert gamma[0, level == 0].max() < gamma[0, level == 2].min()
