"""Sampling paths against the peer's schedules and closed-form steps: gud/sampling.npz, see the page beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import build_kernel, oracles, sample
from tests.diffusion_cases import vector_process

ARRAYS = np.load(Path(__file__).parent / "gud" / "sampling.npz")
KERNELS = {
    "euler": {"kind": "euler"},
    "heun": {"kind": "heun"},
    "ddim": {"kind": "ddim", "eta": 0.0},
    "ancestral": {"kind": "ancestral", "variance": "small"},
    "em": {"kind": "euler_maruyama"},
}
LINEAR = [f"a{a}.{scaling}" for a in ("0.5", "1", "1.6") for scaling in ("white", "raw")]
# On a kink the derivative is one-sided, so that the sequential case is compared where gamma alone decides.
CASES = [(case, name) for case in LINEAR for name in KERNELS] + [("seq.b0.5", name) for name in ("ddim", "ancestral")]


def tensor(name):
    return torch.from_numpy(ARRAYS[name])


def process_of(case):
    if case == "seq.b0.5":
        schedule = {"kind": "columns", "overlap_b": 0.5, "gamma_min": -8.0, "gamma_max": 5.0}
        prior = "standard"
    else:
        softness, scaling = case[1:].rsplit(".", 1)
        down, up = ARRAYS["gamma_targets"]
        schedule = {
            "kind": "gud",
            "softness_a": float(softness),
            "ordering": "variance",
            "log_snr_data": -float(down),
            "log_snr_prior": -float(up),
        }
        prior = "data" if scaling == "white" else "standard"
    return vector_process(schedule, tensor("Sigma"), prior=prior, mean=tensor("mean_comp"))


def replayed(step, name, shape):
    assert name == "eps"
    return tensor("z_steps")[step].reshape(shape)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_path_equals_the_reference(case, name):
    process = process_of(case)
    oracle = oracles.gaussian(process, process.mean_components, process.variances)
    x_T = process.to_data(tensor("x1_white_noise") * process.scale)
    kernel = build_kernel(KERNELS[name])
    _, path = sample(process, kernel, oracle, x_T, tensor("t"), noise=replayed, return_path=True)
    torch.testing.assert_close(path / process.scale, tensor(f"{case}.{name}"), rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", [*LINEAR, "seq.b0.5"])
def test_exact_flow_equals_the_reference(case):
    process = process_of(case)
    oracle = oracles.gaussian(process, process.mean_components, process.variances)
    start = tensor("x1_white_noise") * process.scale
    flow = torch.stack([oracle.flow(start, 1.0, t) for t in tensor("t")])
    torch.testing.assert_close(flow / process.scale, tensor(f"{case}.exact"), rtol=0, atol=1e-8)
