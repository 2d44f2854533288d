"""Corruption, exact scores and conversions reproduce the public GUD library (gud/process.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import Statistics, build_process, oracles
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.processes import Process

ARRAYS = np.load(Path(__file__).parent / "gud" / "process.npz")
T = torch.from_numpy(ARRAYS["t"])
CASES = [(a, scaling) for a in ("0.5", "1", "1.6") for scaling in ("raw", "white")]


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name][..., 0])


def assert_close(found: torch.Tensor, name: str) -> None:
    expected = ARRAYS[name][..., 0]
    # The absolute part is for what is 0 up to rounding: v and the flow of a white Gaussian.
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-8 * np.abs(expected).max() + 1e-12)


def process_of(a: str, scaling: str) -> Process:
    statistics = Statistics(*(torch.from_numpy(ARRAYS[name]) for name in ("mean", "Sigma", "U")))
    schedule = {"kind": "gud", "softness_a": float(a), "log_snr_data": 7.0, "log_snr_prior": -3.0}
    prior = {"raw": "standard", "white": "data"}[scaling]
    spec = {"kind": "spectral", "basis": "pca", "centre": "mean", "prior": prior, "schedule": schedule}
    return build_process(spec, (8,), statistics)


def corrupted(process: Process) -> torch.Tensor:
    return process.corrupt(array("x0"), T, process.basis.to_data(array("z")))


def exact_prediction(process: Process) -> Prediction:
    assert process.variances is not None
    oracle = oracles.gaussian(process, process.mean_components, process.variances)
    return oracle(process.to_components(corrupted(process))[:, None], T)


@pytest.mark.parametrize(("a", "scaling"), CASES)
def test_marginals_match(a: str, scaling: str) -> None:
    m = process_of(a, scaling).marginal(T)
    assert_close(m.gamma, f"a{a}.{scaling}.gamma")
    assert_close(m.beta, f"a{a}.{scaling}.beta")


@pytest.mark.parametrize(("a", "scaling"), CASES)
def test_corruption_matches(a: str, scaling: str) -> None:
    process = process_of(a, scaling)
    x_t = corrupted(process)
    assert_close(x_t, f"a{a}.{scaling}.xt_data")
    assert_close(process.to_components(x_t) / process.scale, f"a{a}.{scaling}.xt_comp_white")


@pytest.mark.parametrize(("a", "scaling"), CASES)
def test_exact_scores_match_in_white_and_data_coordinates(a: str, scaling: str) -> None:
    process = process_of(a, scaling)
    score = exact_prediction(process).score
    assert_close(score * process.scale, f"a{a}.{scaling}.score")
    assert_close(process.basis.to_data(score), f"a{a}.{scaling}.score_data")


@pytest.mark.parametrize(("a", "scaling"), CASES)
def test_conversions_match(a: str, scaling: str) -> None:
    process = process_of(a, scaling)
    prediction = exact_prediction(process)
    assert_close(prediction.eps, f"a{a}.{scaling}.eps")
    assert_close(prediction.v, f"a{a}.{scaling}.vpred")
    assert_close(prediction.x_0 / process.scale, f"a{a}.{scaling}.x0hat")
    assert_close(process.to_data(prediction.x_0), f"a{a}.{scaling}.x0hat_data")


@pytest.mark.parametrize(("a", "scaling"), CASES)
def test_reverse_velocity_is_minus_the_probability_flow(a: str, scaling: str) -> None:
    process = process_of(a, scaling)
    prediction = exact_prediction(process)
    A, G = (part[:, 0, 0] for part in process.drift(T))
    flow = A * prediction.c_t - 0.5 * G.square() * prediction.score
    assert_close(-flow / process.scale, f"a{a}.{scaling}.rev_velocity")
