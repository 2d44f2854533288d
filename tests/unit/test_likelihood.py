"""The ODE likelihood against closed forms, for every schedule, basis and prior; traces, batches, counting."""

import math

import pytest
import torch

from pipeline.diffusion import build_process, log_likelihood, oracles
from pipeline.diffusion.likelihoods.paths import likelihood_path
from pipeline.diffusion.likelihoods.trace import rademacher_probes
from pipeline.diffusion.predictor import Predictor
from tests.diffusion_cases import (
    BASES,
    DIM,
    IMAGE_SHAPE,
    SCALAR_SCHEDULES,
    SCHEDULES,
    Counted,
    MarginalAtOne,
    gaussian_oracle,
    image_process,
    mixture_oracle,
    normal,
    slow,
    vector_process,
)

# Steps for 1e-6 nats/dim: 32 in the angle of scalar schedules, 96 in t for component-wise ones. The Jacobian of a
# diagonal Gaussian is diagonal, so that one Rademacher probe in components is its exact trace.
GAUSSIAN = {"kind": "ode", "solver": "rk4", "trace": "rademacher"}


def steps_for(schedule):
    return 32 if schedule in SCALAR_SCHEDULES else 96


def data(process, *, batch=3):
    """Draws from N(m, Sigma) of the process's own statistics, in data space."""
    return process.to_data(process.mean_components + process.variances.sqrt() * normal(9, batch, process.dim))


def error_per_dim(process_of, oracle_of, spec):
    plain = process_of(None)
    oracle = oracle_of(plain)
    process = process_of(MarginalAtOne(oracle))
    x = data(process)
    exact = oracle.log_prob(process.to_components(x), 0.0)
    return float((log_likelihood(process, oracle, x, spec).total - exact).abs().max()) / process.dim


@pytest.mark.parametrize("prior", ["standard", slow("data")])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exact_gaussian_predictor_gives_the_closed_form_for_every_schedule(schedule, prior):
    spec = {**GAUSSIAN, "steps": steps_for(schedule)}
    error = error_per_dim(lambda end: image_process(schedule, prior=prior, terminal=end), gaussian_oracle, spec)
    assert error < 1e-6


@pytest.mark.parametrize("schedule", ["vp", slow("gud")])
@pytest.mark.parametrize("basis", BASES)
def test_exact_gaussian_predictor_gives_the_closed_form_in_every_basis(basis, schedule):
    spec = {**GAUSSIAN, "steps": steps_for(schedule)}
    error = error_per_dim(lambda end: image_process(schedule, basis=basis, terminal=end), gaussian_oracle, spec)
    assert error < 1e-6


@pytest.mark.parametrize(("schedule", "steps"), [("vp", 96), slow("gud", 160), slow("gud_clipped", 160)])
def test_exact_mixture_predictor_gives_the_closed_form(schedule, steps):
    variances = torch.tensor([1.5, 0.4, 0.1], dtype=torch.float64)
    spec = {"kind": "ode", "solver": "rk4", "steps": steps, "trace": "exact"}
    error = error_per_dim(
        lambda end: vector_process(SCHEDULES[schedule], variances, terminal=end), mixture_oracle, spec
    )
    assert error < 1e-6


@pytest.mark.parametrize(
    ("schedule", "solver", "order", "steps"),
    [("log_linear", "heun", 2, (64, 128)), ("log_linear", "rk4", 4, (24, 48)), slow("gud", "rk4", 4, (64, 128))],
)
def test_solver_has_its_order(schedule, solver, order, steps):
    variances = torch.tensor([1.5, 0.4], dtype=torch.float64)

    def process_of(terminal):
        return vector_process(SCHEDULES[schedule], variances, terminal=terminal)

    errors = [error_per_dim(process_of, mixture_oracle, {"kind": "ode", "solver": solver, "steps": n}) for n in steps]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.5


def test_zero_network_output_on_gaussian_data_gives_the_closed_form():
    """A predictor whose gradients pass through a float32 network."""
    process = image_process("vp", basis="pca")
    oracle = gaussian_oracle(process)
    ended = image_process("vp", basis="pca", terminal=MarginalAtOne(oracle))
    predictor = Predictor(lambda x, t, gamma, cond: 0.0 * x, ended, "v")
    x = data(process)
    terms = log_likelihood(ended, predictor, x, {**GAUSSIAN, "steps": 32})
    torch.testing.assert_close(terms.total, oracle.log_prob(process.to_components(x), 0.0), rtol=0, atol=1e-6 * DIM)


@pytest.mark.parametrize("target", ["eps", "x0", "v", "score"])
def test_every_target_gives_a_finite_likelihood_from_a_clean_start(target):
    process = image_process("linear_beta")
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(DIM, DIM), torch.nn.Tanh(), torch.nn.Linear(DIM, DIM)
    )
    for index, weight in enumerate(network.parameters()):
        weight.data = 0.2 * normal(index, *weight.shape, dtype=torch.float32)
    predictor = Predictor(lambda x, t, gamma, cond: network(x).reshape(x.shape), process, target)
    terms = log_likelihood(process, predictor, data(process), {"kind": "ode", "steps": 8, "trace": "exact"})
    assert bool(torch.isfinite(terms.total).all())


@pytest.mark.parametrize("trace", ["exact", "rademacher"])
@pytest.mark.parametrize("schedule", ["vp", "gud"])
@pytest.mark.parametrize("make_oracle", [gaussian_oracle, mixture_oracle])
def test_values_do_not_depend_on_the_batch(make_oracle, schedule, trace):
    process = image_process(schedule, basis="dct")
    oracle, x = make_oracle(process), data(process, batch=5)
    spec = {"kind": "ode", "steps": 3, "trace": trace, "seed": 4}
    together = log_likelihood(process, oracle, x, spec)
    alone = [log_likelihood(process, oracle, x[i : i + 1], spec, indices=[i]) for i in range(5)]
    for name in ("total", "prior", "divergence", "log_scale", "x_T", "bits_per_dim"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(terms, name) for terms in alone])), name


def test_probes_are_signs_that_depend_on_the_example_only():
    probes = rademacher_probes([3, 8, 5], 64, num_probes=2, seed=1)
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(probes[:, 1:], rademacher_probes([8, 5], 64, num_probes=2, seed=1))
    assert not torch.equal(probes[0], probes[1])
    assert not torch.equal(probes, rademacher_probes([3, 8, 5], 64, num_probes=2, seed=2))


def test_probes_average_to_the_exact_divergence():
    process = vector_process(SCHEDULES["vp"], torch.tensor([1.5, 0.4, 0.1], dtype=torch.float64))
    oracle, x = mixture_oracle(process), data(process, batch=2)
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 3)
    probe = signs[:, None].expand(-1, 2, -1)
    spec = {"kind": "ode", "steps": 8, "trace": "rademacher"}
    exact = log_likelihood(process, oracle, x, {**spec, "trace": "exact"}).divergence
    torch.testing.assert_close(log_likelihood(process, oracle, x, spec, probe=probe).divergence, exact)


def test_terms_add_up_and_quantised_data_get_their_offset():
    process = image_process("vp", prior="data")
    oracle, x = gaussian_oracle(process), data(process)
    terms = log_likelihood(process, oracle, x, {**GAUSSIAN, "steps": 8, "quantisation": 256})
    torch.testing.assert_close(terms.prior + terms.divergence + terms.log_scale, terms.total)
    torch.testing.assert_close(terms.log_scale, -torch.log(process.scale).sum().expand(3))
    torch.testing.assert_close(terms.bits_per_dim, 7 - terms.total / (DIM * math.log(2)))


def test_white_gaussian_data_without_a_mean_do_not_move():
    process = vector_process(SCHEDULES["gud"], torch.tensor([1.5, 0.4, 0.1], dtype=torch.float64), prior="data")
    x = data(process)
    terms = log_likelihood(process, gaussian_oracle(process), x, {**GAUSSIAN, "steps": 16})
    torch.testing.assert_close(terms.x_T, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(terms.divergence, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("solver", "per_step"), [("rk4", 4), ("heun", 2)])
@pytest.mark.parametrize("schedule", ["vp", "columns"])
def test_counted_evaluations_equal_the_reported_number(schedule, solver, per_step):
    process = image_process(schedule)
    counted = Counted(gaussian_oracle(process))
    terms = log_likelihood(process, counted, data(process), {**GAUSSIAN, "solver": solver, "steps": 12})
    assert counted.calls == terms.nfe == per_step * len(likelihood_path(process, 12))


def test_component_wise_paths_are_split_at_every_kink():
    process = image_process("columns")
    ends = [float(step.end.t) for step in likelihood_path(process, 12)]
    assert len(process.schedule.kinks) > 0
    assert all(min(abs(end - kink) for end in ends) < 1e-12 for kink in process.schedule.kinks)


def test_paths_with_more_kinks_than_steps_stay_short():
    process = image_process("gud_clipped")
    assert len(process.schedule.kinks) > 4
    assert len(likelihood_path(process, 2)) <= 10


def test_trace_is_exact_up_to_eight_dimensions_and_estimated_above():
    small = vector_process(SCHEDULES["vp"], torch.linspace(0.1, 1.0, 8).double())
    x = data(small)
    oracle = mixture_oracle(small)
    auto, exact = ({"kind": "ode", "steps": 2, "trace": trace} for trace in ("auto", "exact"))
    assert torch.equal(log_likelihood(small, oracle, x, auto).total, log_likelihood(small, oracle, x, exact).total)
    large = image_process("vp")
    oracle = mixture_oracle(large)
    x = data(large)
    assert not torch.equal(log_likelihood(large, oracle, x, auto).total, log_likelihood(large, oracle, x, exact).total)


@pytest.mark.parametrize("trace", ["exact", "rademacher"])
def test_the_flow_runs_on_the_device_of_the_data(trace):
    process = image_process("gud", prior="data")
    predictor = Predictor(lambda x, t, gamma, cond: x**2, process, "v")
    spec = {"kind": "ode", "steps": 1, "trace": trace}
    terms = log_likelihood(process, predictor, torch.empty(2, *IMAGE_SHAPE, device="meta"), spec)
    assert terms.total.device == terms.x_T.device == torch.device("meta")


def test_a_uniform_density_on_the_data_range_costs_eight_bits():
    """A network cannot, but a terminal of constant density at a standing flow can: the offset rule itself."""

    class Half:
        def log_prob(self, c):
            return torch.full((len(c),), -math.log(2.0) * c.shape[1], dtype=torch.float64)

    spec = {"kind": "spectral", "basis": "pixel", "prior": "standard", "schedule": {"kind": "vp"}}
    process = build_process(spec, shape=IMAGE_SHAPE, terminal=Half())
    still = oracles.gaussian(process, torch.zeros(DIM), torch.ones(DIM))
    x = normal(1, 2, *IMAGE_SHAPE)
    terms = log_likelihood(process, still, x, {"kind": "ode", "steps": 4, "trace": "rademacher", "quantisation": 256})
    torch.testing.assert_close(terms.bits_per_dim, torch.full((2,), 8.0, dtype=torch.float64), rtol=0, atol=1e-12)
