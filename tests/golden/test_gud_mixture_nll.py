"""Likelihood of a non-Gaussian, coupled density along component-wise paths: gud/mixture_nll.npz."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import log_likelihood, oracles
from tests.diffusion_cases import MarginalAtOne, vector_process

ARRAYS = np.load(Path(__file__).parent / "gud" / "mixture_nll.npz")
CASES = {"a0": (0.0, -6.0, 6.0), "a1": (1.0, -6.0, 6.0), "a2": (2.0, -5.0, 5.0)}


def tensor(name):
    return torch.from_numpy(ARRAYS[name])


def process_of(case, *, terminal=None):
    softness, down, up = CASES[case]
    schedule = {
        "kind": "gud",
        "softness_a": softness,
        "ordering": ARRAYS["labels"].tolist(),
        "log_snr_data": -down,
        "log_snr_prior": -up,
    }
    return vector_process(schedule, torch.ones(4, dtype=torch.float64), terminal=terminal)


def oracle_of(process):
    return oracles.mixture(process, tensor("weights"), tensor("means"), tensor("variances"))


@pytest.mark.parametrize("case", CASES)
def test_score_and_its_divergence_equal_the_reference(case):
    oracle, x = oracle_of(process_of(case)), tensor("x").requires_grad_()
    score = oracle(x[:, None], float(ARRAYS[f"{case}.probe_t"])).score
    trace = sum(torch.autograd.grad(score[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(4))
    torch.testing.assert_close(score.detach(), tensor(f"{case}.probe_score"), rtol=0, atol=1e-8)
    torch.testing.assert_close(trace, tensor(f"{case}.probe_score_div"), rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_terms_equal_the_reference(case):
    plain = process_of(case)
    oracle, spec, x = oracle_of(plain), {"kind": "ode", "solver": "rk4", "steps": 256, "trace": "exact"}, tensor("x")
    terms = log_likelihood(process_of(case, terminal=MarginalAtOne(oracle)), oracle, x, spec)
    standard_prior = plain.prior_log_prob(terms.x_T[:, None])
    near = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(terms.x_T, tensor(f"{case}.x1"), **near)
    torch.testing.assert_close(terms.divergence, tensor(f"{case}.delta_logp"), **near)
    torch.testing.assert_close(terms.total, tensor(f"{case}.logp_p0"), **near)
    torch.testing.assert_close(standard_prior + terms.divergence, tensor(f"{case}.logp_std_prior"), **near)
