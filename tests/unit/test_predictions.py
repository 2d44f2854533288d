"""Conversions between eps, x_0, v and score lose nothing."""

import pytest
import torch

from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.predictions import NOISE_TARGETS, Prediction
from pipeline.diffusion.processes import Marginal

VARIANCES = torch.tensor([4.0, 0.1, 1.5, 0.02, 0.6], dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)
SHAPE = (5,)


def marginal_at(prior: str, times: torch.Tensor) -> Marginal:
    spec = {"kind": "spectral", "prior": prior, "schedule": {"kind": "vp"}}
    return build_process(spec, SHAPE, Statistics(torch.zeros(5), VARIANCES)).marginal(times)


def truth(m: Marginal) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x_0, eps = torch.randn(2, m.gamma.shape[0], 5, generator=GENERATOR, dtype=torch.float64)
    s = m.scale
    values = {"x0": x_0, "eps": eps, "score": -eps / m.sigma, "v": m.alpha * eps - m.sigma / s * (x_0 / s)}
    return m.alpha * x_0 + m.sigma * eps, values


def attribute(prediction: Prediction, target: str) -> torch.Tensor:
    return getattr(prediction, {"x0": "x_0"}.get(target, target))


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("native", NOISE_TARGETS)
def test_every_target_gives_every_other(native: str, prior: str) -> None:
    m = marginal_at(prior, torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64))
    c_t, values = truth(m)
    prediction = Prediction(native, values[native], c_t, m)
    for target, expected in values.items():
        torch.testing.assert_close(attribute(prediction, target), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("via", NOISE_TARGETS)
@pytest.mark.parametrize("native", NOISE_TARGETS)
def test_conversions_round_trip(native: str, via: str) -> None:
    m = marginal_at("data", torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64))
    c_t, values = truth(m)
    there = attribute(Prediction(native, values[native], c_t, m), via)
    back = attribute(Prediction(via, there, c_t, m), native)
    torch.testing.assert_close(back, values[native], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("native", NOISE_TARGETS)
def test_native_value_is_returned_as_it_is(native: str) -> None:
    m = marginal_at("data", torch.tensor([1e-9], dtype=torch.float64))
    value = torch.randn(1, 5, generator=GENERATOR)
    assert attribute(Prediction(native, value, value, m), native) is value


@pytest.mark.parametrize("native", ["eps", "v", "score", "x0"])
def test_clean_data_are_their_own_prediction(native: str) -> None:
    m = marginal_at("standard", torch.tensor([0.0], dtype=torch.float64))
    c = torch.randn(1, 5, generator=GENERATOR, dtype=torch.float64)
    value = c if native == "x0" else torch.randn(1, 5, generator=GENERATOR, dtype=torch.float64)
    assert torch.equal(Prediction(native, value, c, m).x_0, c)


def test_noise_of_a_clean_prediction_at_time_zero_is_zero_not_nan() -> None:
    m = marginal_at("standard", torch.tensor([0.0], dtype=torch.float64))
    c = torch.ones(1, 5, dtype=torch.float64)
    prediction = Prediction("x0", c, c, m)
    for value in (prediction.eps, prediction.score, prediction.v):
        assert torch.equal(value, torch.zeros_like(c))


@pytest.mark.parametrize(
    ("value", "c_t", "expected"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_wider_dtype_of_the_inputs_is_kept(value: torch.dtype, c_t: torch.dtype, expected: torch.dtype) -> None:
    m = marginal_at("data", torch.tensor([0.5], dtype=torch.float64))
    prediction = Prediction("eps", torch.ones(1, 5, dtype=value), torch.ones(1, 5, dtype=c_t), m)
    assert prediction.x_0.dtype == prediction.v.dtype == prediction.score.dtype == expected


def test_one_time_serves_all_rows() -> None:
    m = marginal_at("data", torch.tensor([0.5], dtype=torch.float64))
    c, eps = torch.randn(2, 7, 5, generator=GENERATOR, dtype=torch.float64)
    assert Prediction("eps", eps, c, m).x_0.shape == (7, 5)


def test_gradients_pass_through_a_conversion() -> None:
    m = marginal_at("standard", torch.tensor([0.0, 0.5], dtype=torch.float64))
    value = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Prediction("x0", value, torch.ones(2, 5).double(), m).eps.sum(), value)
    assert gradient.isfinite().all()


def test_unknown_target_is_refused() -> None:
    m = marginal_at("standard", torch.tensor([0.5], dtype=torch.float64))
    with pytest.raises(Exception, match="target"):
        Prediction("noise", torch.ones(1, 5), torch.ones(1, 5), m)
