"""Preconditioning: zero network output is the exact predictor of Gaussian data; inputs have unit variance."""

import pytest
import torch

from pipeline.diffusion import build_process
from pipeline.diffusion.predictions import NOISE_TARGETS
from pipeline.diffusion.predictor import MAX_ABS_GAMMA, Condition, Precondition, Predictor
from tests.diffusion_cases import BASES, DIM, IMAGE_SHAPE, SCHEDULES, gaussian_oracle, image_process, normal

TIMES = (0.02, 0.4, 1.0)


@pytest.mark.parametrize("target", NOISE_TARGETS)
@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("basis", BASES)
def test_zero_output_is_the_exact_predictor_of_gaussian_data(basis, prior, target):
    process = image_process("gud", basis=basis, prior=prior)
    oracle, precondition = gaussian_oracle(process), Precondition(process, target)
    u_t, zero = normal(1, 4, 1, DIM), torch.zeros(4, *IMAGE_SHAPE, dtype=torch.float64)
    for t in TIMES:
        found, exact = precondition.prediction(u_t, t, zero), oracle(u_t, t)
        for name in ("eps", "x_0", "v", "score"):
            torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("target", NOISE_TARGETS)
def test_all_targets_are_the_same_function_of_the_output(target):
    process = image_process("columns", prior="data")
    u_t, output = normal(1, 4, 1, DIM), normal(2, 4, *IMAGE_SHAPE)
    for t in TIMES:
        found = Precondition(process, target).prediction(u_t, t, output)
        expected = Precondition(process, "eps").prediction(u_t, t, output)
        torch.testing.assert_close(found.eps, expected.eps, rtol=1e-9, atol=1e-9)


def test_the_output_s_target_has_unit_variance_on_gaussian_data():
    """Solving eps_hat(n) = eps for n: its variance given x_t is 1 in every component."""
    process = image_process("gud")
    for t in TIMES:
        m = process.marginal(t)
        total = m.alpha**2 * process.variances + m.sigma**2
        gain = Precondition(process, "eps").prediction(
            torch.zeros(1, 1, DIM).double(), t, process.basis.to_data(torch.ones(1, DIM).double())
        )
        offset = Precondition(process, "eps").prediction(
            torch.zeros(1, 1, DIM).double(), t, torch.zeros(1, *IMAGE_SHAPE).double()
        )
        posterior_variance = m.alpha**2 * process.variances / total
        torch.testing.assert_close((gain.value - offset.value) ** 2, posterior_variance)


@pytest.mark.parametrize("schedule", ["vp", "gud"])
def test_network_inputs_have_unit_variance_on_average(schedule):
    process = image_process(schedule, basis="pca")
    for t in TIMES:
        m = process.marginal(t)
        deviation = torch.sqrt(m.alpha**2 * process.variances + m.sigma**2)
        c_t = m.alpha * process.mean_components + deviation
        inputs = Precondition(process, "eps").inputs(c_t[:, None].expand(2, 1, DIM), t)
        assert inputs.x.dtype == torch.float32
        mean_square = process.basis.to_components(inputs.x).square().mean(dim=1)
        torch.testing.assert_close(mean_square, torch.ones(2))


@pytest.mark.parametrize(("schedule", "levels"), [("vp", 1), ("gud", DIM)])
def test_networks_see_time_and_finite_noise_levels_of_every_example(schedule, levels):
    process = image_process(schedule)
    cond = Condition(label=torch.tensor([1, 2, 3]))
    t = torch.tensor([0.0, 0.5, 1.0])
    inputs = Precondition(process, "eps").inputs(normal(1, 3, 1, DIM), t, cond)
    assert inputs.t.shape == (3,)
    assert inputs.gamma.shape == (3, levels)
    assert inputs.gamma.dtype == torch.float32
    assert float(inputs.gamma.abs().max()) <= MAX_ABS_GAMMA
    assert inputs.cond is cond
    once = Precondition(process, "eps").inputs(normal(1, 3, 1, DIM), 0.5)
    assert torch.equal(once.gamma[0], inputs.gamma[1])
    assert torch.equal(once.t, torch.full((3,), 0.5))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", NOISE_TARGETS)
def test_predictions_are_finite_at_both_ends(target, schedule):
    process = image_process(schedule)
    predictor = Predictor(lambda x, t, gamma, cond: torch.ones_like(x), process, target)
    for t in (0.0, 1.0):
        found = predictor(normal(1, 2, 1, DIM), t)
        assert bool(torch.isfinite(found.value).all())
        assert bool(torch.isfinite(found.eps).all())
        assert bool(torch.isfinite(found.x_0).all())


def test_without_statistics_the_data_are_taken_as_standard_normal():
    spec = {"kind": "spectral", "basis": "dct", "prior": "standard", "schedule": {"kind": "vp"}}
    process = build_process(spec, shape=IMAGE_SHAPE)
    u_t = normal(1, 2, 1, DIM)
    found = Precondition(process, "eps").prediction(u_t, 0.5, torch.zeros(2, *IMAGE_SHAPE))
    torch.testing.assert_close(found.value, process.marginal(0.5).sigma * u_t[:, 0])


def test_predictors_keep_float32_and_are_differentiable():
    process = image_process("vp")
    predictor = Predictor(lambda x, t, gamma, cond: x**2, process, "v")
    u_t = normal(1, 2, 1, DIM, dtype=torch.float32).requires_grad_()
    prediction = predictor(u_t, 0.5)
    assert prediction.value.dtype == prediction.eps.dtype == torch.float32
    (gradient,) = torch.autograd.grad(prediction.x_0.sum(), u_t)
    assert float(gradient.abs().min()) > 0
