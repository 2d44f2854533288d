"""Likelihood of Gaussian data along component-wise paths: gud/gaussian_nll.npz, see the page beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import log_likelihood, oracles
from tests.diffusion_cases import MarginalAtOne, slow, vector_process

ARRAYS = np.load(Path(__file__).parent / "gud" / "gaussian_nll.npz")
COMPONENT_WISE = [f"a{a}.{scaling}" for a in ("0", "0.4", "1", "1.6") for scaling in ("white", "raw")] + [
    "seq.b0.5.white"
]
QUICK = ("a1.raw", "a1.6.white", "seq.b0.5.white")
# The Jacobian is diagonal here, so that one Rademacher probe in components is the exact trace.
STEPS = {"kind": "ode", "solver": "rk4", "steps": 120, "trace": "rademacher"}
HEUN = {"kind": "ode", "solver": "heun", "steps": 200, "trace": "rademacher"}


def tensor(name):
    return torch.from_numpy(ARRAYS[name])


def process_of(case, *, terminal=None):
    prior = "data" if case.endswith("white") else "standard"
    if case.startswith("seq"):
        schedule = {"kind": "columns", "overlap_b": 0.5, "gamma_min": -9.0, "gamma_max": 6.0}
    elif case.startswith("vp"):
        schedule = {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}
    else:
        down, up = ARRAYS["gamma_targets"]
        schedule = {
            "kind": "gud",
            "softness_a": float(case[1:].rsplit(".", 1)[0]),
            "ordering": "variance",
            "log_snr_data": -float(down),
            "log_snr_prior": -float(up),
        }
    return vector_process(schedule, tensor("Sigma"), prior=prior, mean=tensor("mean_comp"), terminal=terminal)


def oracle_of(process):
    return oracles.gaussian(process, process.mean_components, process.variances)


@pytest.mark.parametrize("case", COMPONENT_WISE)
def test_schedule_ends_equal_the_reference(case):
    gamma = process_of(case).marginal(torch.tensor([0.0, 1.0])).gamma
    expected = torch.stack((tensor(f"{case}.gamma0"), tensor(f"{case}.gamma1")))
    torch.testing.assert_close(gamma, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [case if case in QUICK else slow(case) for case in COMPONENT_WISE])
def test_terms_equal_the_reference(case):
    plain = process_of(case)
    oracle = oracle_of(plain)
    exact = process_of(case, terminal=MarginalAtOne(oracle))
    terms = log_likelihood(exact, oracle, tensor("x_comp"), STEPS)
    standard_prior = plain.prior_log_prob(plain.to_components(terms.x_T)[:, None])
    near = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(terms.divergence, tensor(f"{case}.delta_logp"), **near)
    torch.testing.assert_close(terms.x_T / plain.scale, tensor(f"{case}.x1"), **near)
    torch.testing.assert_close(terms.total, tensor(f"{case}.logp_true_prior"), **near)
    torch.testing.assert_close(standard_prior + terms.divergence, tensor(f"{case}.logp_std_prior"), **near)
    torch.testing.assert_close(
        oracle.log_prob(tensor("x_comp"), 0.0), tensor(f"{case}.logp_p0_exact"), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("case", ["vp.white", "vp.raw"])
def test_vp_terms_equal_the_reference(case):
    """The reference starts at t = 1e-5 and we at 0; in between log p changes by less than 4e-4 nats."""
    plain = process_of(case)
    oracle = oracle_of(plain)
    terms = log_likelihood(plain, oracle, tensor("x_comp"), {**STEPS, "steps": 60})
    shift = tensor(f"{case}.logp_p0_exact") - tensor("logp_data")
    torch.testing.assert_close(terms.total + shift, tensor(f"{case}.logp_std_prior"), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        oracle.log_prob(tensor("x_comp"), 1e-5), tensor(f"{case}.logp_p0_exact"), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("case", [slow(case) for case in COMPONENT_WISE if case.startswith("a")])
def test_heun_with_200_steps_is_within_the_stated_error(case):
    plain = process_of(case)
    oracle = oracle_of(plain)
    terms = log_likelihood(process_of(case, terminal=MarginalAtOne(oracle)), oracle, tensor("x_comp"), HEUN)
    error = (terms.total - tensor(f"{case}.logp_p0_exact")).abs().max() / plain.dim
    assert float(error) < 6e-4
