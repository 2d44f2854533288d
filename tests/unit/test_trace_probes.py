"""Bases of the trace probes and the errors that several probes say of themselves."""

import math

import pytest
import torch

from pipeline.config import ConfigError, parse
from pipeline.diffusion import Statistics, build_process, log_likelihood
from pipeline.diffusion.bases import build_basis
from pipeline.diffusion.likelihoods import LikelihoodSpec, OdeLikelihoodSpec
from pipeline.diffusion.likelihoods.draws import standard_error
from pipeline.diffusion.likelihoods.trace import rademacher_probes, turned_probes
from pipeline.diffusion.predictions import Prediction
from tests.diffusion_cases import DIM, IMAGE_SHAPE, image_process, mixture_oracle, normal, slow

STEPS = 4


def smooth_covariance():
    """Neighbouring pixels of a 4x4 image are alike, as in photographs: exp(-distance / 3)."""
    at = torch.cartesian_prod(torch.arange(4), torch.arange(4)).double()
    return 0.3 * torch.exp(-torch.cdist(at, at) / 3)


def smooth_case(basis="pixel"):
    """A process, the exact predictor of a correlated Gaussian, and its statistics with principal components."""
    covariance = smooth_covariance()
    statistics = Statistics.from_moments(torch.zeros(DIM), covariance, "pca", IMAGE_SHAPE, quantisation=None)
    schedule = {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}
    spec = {"kind": "spectral", "basis": basis, "schedule": schedule}
    process = build_process(spec, IMAGE_SHAPE, statistics if basis == "pca" else None)
    matrix = process.basis.matrix()
    carried = matrix @ covariance @ matrix.T

    def predict(u_t, t, cond=None):
        c, m = u_t[:, 0], process.marginal(t)
        alpha, sigma = float(m.alpha[0, 0]), float(m.sigma[0, 0])
        inverse = torch.linalg.inv(alpha**2 * carried + sigma**2 * torch.eye(DIM, dtype=torch.float64))
        return Prediction("eps", sigma * c @ inverse, u_t[:, 0], m)

    return process, predict, statistics


def spread(basis="pixel", **spec):
    """Standard deviation of one probe around the exact trace in bits/dim, over 64 seeds of the same image."""
    process, predict, statistics = smooth_case(basis)
    x = (torch.linalg.cholesky(smooth_covariance()) @ normal(1, DIM)).reshape(1, *IMAGE_SHAPE).expand(64, *IMAGE_SHAPE)
    tree = {"kind": "ode", "steps": STEPS}
    exact = log_likelihood(process, predict, x[:1], {**tree, "trace": "exact"}).total
    found = log_likelihood(process, predict, x, {**tree, "trace": "rademacher", **spec}, statistics=statistics).total
    error = (found - exact) / (DIM * math.log(2))
    assert abs(float(error.mean())) < 4 * float(error.std()) / 8 + 1e-9
    return float(error.std())


def test_cosine_and_principal_component_probes_vary_less_than_pixel_probes_on_correlated_data():
    pixel, dct, pca = (spread(probe_basis=name) for name in ("pixel", "dct", "pca"))
    assert dct < 0.35 * pixel
    assert pca < 1e-9  # the Jacobian is diagonal there: one probe is the exact trace


@pytest.mark.parametrize("basis", ["pca", slow("dct")])
def test_probes_of_the_processs_own_components_are_those_of_that_basis(basis):
    assert spread(basis) == pytest.approx(spread(probe_basis=basis), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_turned_probes_are_the_same_signs_seen_in_another_basis(basis):
    process = image_process("vp", basis="pca")
    signs = rademacher_probes([4, 7], DIM, num_probes=3, seed=2)
    drawn_in = build_basis(basis, IMAGE_SHAPE)
    turned = turned_probes(signs, drawn_in, process.basis)
    for probe in range(3):
        torch.testing.assert_close(drawn_in.to_components(process.basis.to_data(turned[probe])), signs[probe])


@pytest.mark.parametrize("probe_basis", ["pixel", "dct", "pca"])
def test_values_under_turned_probes_do_not_depend_on_the_batch(probe_basis):
    process = image_process("gud", basis="fourier")
    statistics = smooth_case()[2]
    oracle, x = mixture_oracle(process), 0.3 * normal(3, 4, *IMAGE_SHAPE)
    spec = {"kind": "ode", "steps": 2, "num_probes": 9, "probe_basis": probe_basis}
    together = log_likelihood(process, oracle, x, spec, statistics=statistics)
    for i in range(4):
        alone = log_likelihood(process, oracle, x[i : i + 1], spec, indices=[i], statistics=statistics)
        assert torch.equal(alone.total, together.total[i : i + 1])
        assert torch.equal(alone.se, together.se[i : i + 1])


def test_several_probes_are_the_mean_of_single_ones_and_state_its_error():
    process = image_process("vp")
    oracle, x = mixture_oracle(process), 0.3 * normal(3, 2, *IMAGE_SHAPE)
    probes = rademacher_probes([0, 1], DIM, num_probes=5, seed=0)
    spec = {"kind": "ode", "steps": STEPS, "num_probes": 5}
    terms = log_likelihood(process, oracle, x, spec)
    single = torch.stack([log_likelihood(process, oracle, x, spec, probe=probe).total for probe in probes])
    torch.testing.assert_close(terms.total, single.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(terms.se, single.std(0) / math.sqrt(5), rtol=0, atol=1e-9)
    assert terms.num_probes == 5


def test_an_exact_trace_has_no_error_and_a_single_probe_cannot_tell():
    process = image_process("vp")
    oracle, x = mixture_oracle(process), 0.3 * normal(3, 2, *IMAGE_SHAPE)
    exact = log_likelihood(process, oracle, x, {"kind": "ode", "steps": 1, "trace": "exact"})
    assert (exact.num_probes, exact.se.tolist()) == (0, [0.0, 0.0])
    one = log_likelihood(process, oracle, x, {"kind": "ode", "steps": 1})
    assert (one.num_probes, one.se) == (1, None)
    assert standard_error(torch.tensor([[1.0], [3.0]])).tolist() == [1.0]


def test_principal_components_that_nobody_gave_are_asked_for():
    process = image_process("vp", basis="pixel")
    with pytest.raises(ConfigError, match="basis pca needs data statistics"):
        log_likelihood(
            process, mixture_oracle(process), torch.zeros(1, *IMAGE_SHAPE), {"probe_basis": "pca", "kind": "ode"}
        )


def test_the_default_basis_leaves_identities_as_they_were():
    assert "probe_basis" not in OdeLikelihoodSpec().identity()
    assert OdeLikelihoodSpec(probe_basis="dct").identity()["probe_basis"] == "dct"
    with pytest.raises(ConfigError, match="probe_basis"):
        parse(LikelihoodSpec, {"kind": "ode", "probe_basis": "haar"}, "likelihood")
