"""VDM's bound with the exact denoiser of a table of levels: evaluation/vdm.npz, see the page beside it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import build_process, log_likelihood
from pipeline.diffusion.likelihoods.bound_paths import chain_path, continuous_path
from pipeline.diffusion.likelihoods.decoders import softmax_log_prob
from pipeline.diffusion.predictions import Prediction
from tests.diffusion_cases import slow

ARRAYS = np.load(Path(__file__).parent / "evaluation" / "vdm.npz")
CENTRES = (torch.arange(256, dtype=torch.float64) + 0.5) / 128 - 1
CASES = ["fixed", "learnable_nnet"]


def tensor(name):
    return torch.from_numpy(ARRAYS[name])


def ends(case="fixed"):
    """gamma(0) and gamma(1); the peer's network does not meet the ends it was asked for."""
    return ARRAYS["gamma0_gamma1"] if case == "fixed" else ARRAYS["net_gamma"][[0, -1]]


def process_of(case="fixed", dim=1):
    low, high = (float(end) for end in ends(case))
    spec = {"kind": "log_linear", "gamma_min": low, "gamma_max": high}
    return build_process({"kind": "spectral", "basis": "pixel", "schedule": spec}, (dim,))


def exact(process):
    """Posterior mean of independent levels with the probabilities p."""

    def predict(u_t, t, cond=None):
        c, m = u_t[:, 0], process.marginal(t)
        log_joint = -0.5 * ((c[..., None] - m.alpha[..., None] * CENTRES) / m.sigma[..., None]).square()
        x_0 = torch.softmax(log_joint + tensor("p").log(), dim=-1) @ CENTRES
        return Prediction("eps", (c - m.alpha * x_0) / m.sigma, u_t[:, 0], m)

    return predict


def population(values):
    """Mean over the table of values of rows `(repeats * 256,)` and its standard error."""
    p, repeated = tensor("p"), values.reshape(-1, 256)
    error = (p * repeated.std(0)).square().sum().sqrt() / math.sqrt(len(repeated))
    return float((p * repeated.mean(0)).sum()), float(error)


def bound(repeats, **spec):
    process = process_of()
    x = CENTRES.repeat(repeats)[:, None]
    return log_likelihood(process, exact(process), x, {"kind": "vlb", "quantisation": 256, **spec})


def test_decoder_gives_the_peers_log_probabilities():
    position = (tensor("dec_z") + 1) * 128 - 0.5
    spread = torch.full((1, 1), 128 * math.exp(0.5 * ends()[0]), dtype=torch.float64)
    found = softmax_log_prob(position.flatten(1), tensor("images").flatten(1).double(), spread, 256)
    torch.testing.assert_close(found, tensor("dec_logp_at_image").flatten(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_reconstruction_with_recorded_noise_equals_the_peers(case):
    level = tensor("images").flatten(1).double()
    ratio = 128 * math.exp(0.5 * ends(case)[0])
    position = level + ratio * tensor(f"vlb_{case}_T0_eps0").flatten(1)
    lost = -softmax_log_prob(position, level, torch.full((1, 1), ratio, dtype=torch.float64), 256).sum(1)
    torch.testing.assert_close(lost, tensor(f"vlb_{case}_T0_loss_recon"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_prior_kl_of_images_equals_the_peers(case):
    process = process_of(case, dim=12)
    x = CENTRES[tensor("images").flatten(1)]
    terms = log_likelihood(process, exact(process), x, {"kind": "vlb", "num_times": 1})
    torch.testing.assert_close(terms.prior_kl, tensor(f"vlb_{case}_T0_loss_klz"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_levels", [0, 10])
def test_weighted_error_with_recorded_noise_equals_the_peers_diffusion_loss(num_levels):
    process = process_of(dim=12)
    c_0, t = CENTRES[tensor("images").flatten(1)], tensor(f"vlb_fixed_T{num_levels}_t")
    m, noise = process.marginal(t), tensor(f"vlb_fixed_T{num_levels}_eps").flatten(1)
    error = (noise - exact(process)((m.alpha * c_0 + m.sigma * noise)[:, None], t).eps).square().sum(1)
    offsets = torch.zeros(4, dtype=torch.float64)
    if num_levels:
        path = chain_path(process, num_levels, first=0, variance="small", offsets=offsets, num_draws=None)
        steps = (t * num_levels).round().long() - 1
        torch.testing.assert_close(path.times[0, steps], t)
        weight = torch.cat([path.weight(k, m) for k in steps.tolist()])[:, 0]
    else:
        weight = continuous_path(process, 0.0, offsets, 1).weight(0, m)[:, 0]
    torch.testing.assert_close(weight * error, tensor(f"vlb_fixed_T{num_levels}_loss_diff"), rtol=1e-10, atol=1e-10)


def test_continuous_bound_and_its_terms_equal_the_population_values():
    terms = bound(8, num_times=16, num_probes=16)
    assert abs(population(terms.prior_kl)[0] - ARRAYS["pop_prior_nats"]) < 1e-10
    for name, key in (("diffusion", "pop_L_inf_nats"), ("reconstruction", "pop_recon_nats")):
        mean, error = population(getattr(terms, name))
        assert abs(mean - ARRAYS[key]) < 4 * error, name
        assert error < 0.1, name
    bits, error = population(terms.bits_per_dim)
    assert abs(bits - ARRAYS["pop_vlb_bits"]) < 4 * error
    assert abs(bits - ARRAYS["pop_entropy_bits"]) < 4 * error  # an exact denoiser pays 6e-5 bits for prior and decoder


@pytest.mark.parametrize(
    ("num_levels", "num_draws"), [(4, None), (16, 8), slow(16, None), slow(64, None), slow(64, 16)]
)
def test_chains_pay_the_population_loss_of_their_length(num_levels, num_draws):
    mean, error = population(bound(8, num_levels=num_levels, num_times=num_draws).diffusion)
    expected = float(ARRAYS["pop_L_T_nats"][list(ARRAYS["T_list"]).index(num_levels)])
    assert abs(mean - expected) < 4 * error + 1e-4 * expected
    assert error < 0.05 * expected
