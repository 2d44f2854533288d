"""Covariance of every sampler's output on Gaussian data, without chance: gud/analytic_grid.npz."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import build_kernel, sample
from pipeline.diffusion.sampling import time_grid
from tests.diffusion_cases import gaussian_oracle, slow, vector_process

ARRAYS = np.load(Path(__file__).parent / "gud" / "analytic_grid.npz")
SAMPLERS = ("euler", "heun", "ddim", "ancestral")


def output_variance(process, kernel, num_steps):
    """Sum of squared responses: row 0 of the batch starts at one standard deviation, row k feels only draw k."""
    x_T = torch.zeros(num_steps + 1, process.dim, dtype=torch.float64)
    x_T[0] = process.scale

    def unit_draw(step, name, shape):
        noise = torch.zeros(shape, dtype=torch.float64)
        noise[step + 1] = 1.0
        return noise

    return sample(process, kernel, gaussian_oracle(process), x_T, time_grid(num_steps), unit_draw).square().sum(0)


@pytest.mark.parametrize("steps", [10, slow(50)])
@pytest.mark.parametrize("ordering_r", [0.0, 0.75])
@pytest.mark.parametrize("softness_a", [0.0, 1.0, 1.6])
@pytest.mark.parametrize("scaling", ["white", "raw"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_output_variance_equals_the_reference(sampler, scaling, softness_a, ordering_r, steps):
    down, up = ARRAYS["gamma_targets"]
    schedule = {
        "kind": "gud",
        "softness_a": softness_a,
        "ordering": "variance",
        "ordering_r": ordering_r,
        "log_snr_data": -float(down),
        "log_snr_prior": -float(up),
    }
    prior = "data" if scaling == "white" else "standard"
    process = vector_process(schedule, torch.from_numpy(ARRAYS["Sigma"]), prior=prior)
    place = (
        ["white", "raw"].index(scaling),
        int(np.abs(ARRAYS["a"] - softness_a).argmin()),
        int(np.abs(ARRAYS["r"] - ordering_r).argmin()),
        ARRAYS["steps"].tolist().index(steps),
        SAMPLERS.index(sampler),
    )
    found = output_variance(process, build_kernel({"kind": sampler}), steps)
    torch.testing.assert_close(found, torch.from_numpy(ARRAYS["sample_variance"])[place], rtol=1e-8, atol=1e-12)
