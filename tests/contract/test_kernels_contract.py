"""What every reverse kernel of the table promises."""

import pytest
import torch
import yaml

from pipeline.config import parse, parse_yaml
from pipeline.diffusion import build_kernel, build_process, sample
from pipeline.diffusion.kernels import KERNELS, KernelSpec
from pipeline.diffusion.kernels.previous import Previous
from pipeline.diffusion.predictions import NOISE_TARGETS
from pipeline.diffusion.predictor import Predictor
from pipeline.diffusion.sampling import time_grid
from tests.diffusion_cases import (
    DIM,
    IMAGE_SHAPE,
    Counted,
    image_process,
    image_statistics,
    keyed_noise,
    mixture_oracle,
    normal,
)

VARIANTS = [{"kind": kind} for kind in KERNELS] + [
    {"kind": "ancestral", "variance": "large"},
    {"kind": "ddim", "eta": 1.0},
    {"kind": "cold", "rho": 0.5, "tau": 0.1},
    {"kind": "cold", "noise": "start"},
    {"kind": "previous", "delta": 0.1},
    {"kind": "previous", "stride": 3},
]
NUM_LEVELS = 30
"""Divided by every number of steps of this file."""


@pytest.fixture(params=VARIANTS, ids=str)
def kernel(request):
    return build_kernel(request.param)


def takes_previous(kernel):
    return isinstance(kernel, Previous)


def level_process():
    """Heat dissipation with a little noise on every level."""
    schedule = {"kind": "heat", "num_levels": NUM_LEVELS, "noise": 0.05}
    return build_process({"kind": "spectral", "basis": "dct", "schedule": schedule}, IMAGE_SHAPE, image_statistics())


def scene(kernel):
    """A process and a predictor that the kernel goes with."""
    if takes_previous(kernel):
        process = level_process()
        return process, Predictor(lambda x, t, gamma, cond: 0.3 * torch.tanh(x), process, "x_prev")
    process = image_process("gud")
    return process, mixture_oracle(process)


def path(kernel, x_T, *, rows=slice(None)):
    """A short path whose noise belongs to row i of a batch of four, whatever `rows` are sampled."""
    process, predictor = scene(kernel)

    def noise(step, name, shape):
        return keyed_noise(step, name, (4, *IMAGE_SHAPE))[rows]

    return sample(process, kernel, predictor, x_T[rows], time_grid(5), noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(kernel, dtype):
    x_T = normal(1, 4, *IMAGE_SHAPE, dtype=dtype)
    x = path(kernel, x_T)
    assert x.dtype == dtype
    assert x.shape == x_T.shape


def test_float32_paths_follow_float64_paths(kernel):
    x_T = normal(1, 4, *IMAGE_SHAPE)
    torch.testing.assert_close(
        path(kernel, x_T.float()).double(), path(kernel, x_T.float().double()), rtol=0, atol=1e-4
    )


def test_same_arguments_give_the_same_path(kernel):
    x_T = normal(1, 4, *IMAGE_SHAPE)
    assert torch.equal(path(kernel, x_T), path(kernel, x_T))


def test_splitting_the_batch_changes_nothing(kernel):
    x_T = normal(1, 4, *IMAGE_SHAPE)
    parts = [path(kernel, x_T, rows=slice(i, i + 2)) for i in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), path(kernel, x_T), rtol=0, atol=1e-10)


def test_the_start_is_not_modified(kernel):
    x_T = normal(1, 4, *IMAGE_SHAPE)
    kept = x_T.clone()
    path(kernel, x_T)
    assert torch.equal(x_T, kept)


def test_declared_evaluations_are_counted(kernel):
    process, predictor = scene(kernel)
    counted = Counted(predictor)
    sample(process, kernel, counted, normal(1, 4, *IMAGE_SHAPE), time_grid(3), keyed_noise)
    assert counted.calls == kernel.nfe(3)


def test_noise_is_used_if_and_only_if_it_is_declared(kernel):
    (process, predictor), times = scene(kernel), torch.tensor([0.6, 0.4, 0.2], dtype=torch.float64)
    u_t, drawn = normal(1, 4, 1, DIM), {name: normal(2, 4, 1, DIM) for name in kernel.draws}
    carry = kernel.init(process, u_t, times)
    with_noise = kernel.step(u_t, times[0], times[1], predictor, None, drawn, carry, process)[0]
    silent = {name: torch.zeros_like(noise) for name, noise in drawn.items()}
    without = kernel.step(u_t, times[0], times[1], predictor, None, silent, carry, process)[0]
    assert torch.equal(with_noise, without) == (not kernel.draws)


def test_paths_run_on_the_device_of_the_start(kernel):
    """The meta device refuses to meet a tensor of the host, as an accelerator does."""
    process = level_process() if takes_previous(kernel) else image_process("gud", prior="data")
    x_T = torch.empty(4, *IMAGE_SHAPE, device="meta")
    for target in ["x_prev"] if takes_previous(kernel) else NOISE_TARGETS:
        predictor = Predictor(lambda x, t, gamma, cond: torch.zeros_like(x), process, target)
        final = "state" if kernel.levels_only else "denoise"
        x, path = sample(process, kernel, predictor, x_T, time_grid(2), keyed_noise, final=final, return_path=True)
        assert x.device == path.device == x_T.device
        assert x.dtype == path.dtype == x_T.dtype


@pytest.mark.parametrize("spec", VARIANTS, ids=str)
def test_specification_survives_yaml(spec):
    ready = parse(KernelSpec, spec)
    assert parse(KernelSpec, parse_yaml(yaml.safe_dump(ready.model_dump(mode="json"))).data) == ready
