"""Cached copies of constant tensors."""

import pickle

import torch

from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.placement import Constant

CPU = torch.device("cpu")


def test_copy_is_made_once() -> None:
    constant = Constant(torch.arange(3))
    assert constant.on(CPU, torch.float32) is constant.on(CPU, torch.float32)
    assert constant.on(CPU, torch.float32).dtype == torch.float32


def test_pickled_constant_keeps_its_value_only() -> None:
    constant = Constant(torch.arange(3))
    constant.on(CPU, torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(constant)).on(CPU), torch.arange(3))


def test_a_process_first_used_for_sampling_can_train_afterwards() -> None:
    spec = {"kind": "spectral", "basis": "dct", "centre": "mean", "prior": "data", "schedule": {"kind": "gud"}}
    process = build_process(spec, (1, 4, 4), Statistics(torch.zeros(16), torch.linspace(0.1, 2, 16)))
    x = torch.ones(2, 1, 4, 4)
    with torch.inference_mode():
        process.corrupt(x, 0.5, x)
    weight = torch.ones((), requires_grad=True)
    level = process.schedule(torch.tensor([0.5]))
    (process.corrupt(weight * x, 0.5, x).sum() + (weight * level.d_gamma).sum()).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite()
