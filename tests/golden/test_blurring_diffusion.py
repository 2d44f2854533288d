"""Schedule, noising and one reverse step of a public blurring diffusion are reproduced (cold/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import build_process
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.processes import SpectralProcess

ARRAYS = np.load(Path(__file__).parent / "cold" / "blurring_diffusion.npz")
FRACTIONS = [0.0, 0.1, 0.25, 0.5, 0.9, 1.0]
TAGS = ["b16", "b20"]


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name]).double()


def process_of(tag: str) -> SpectralProcess:
    process = build_process(
        {"kind": "spectral", "basis": "dct", "schedule": {"kind": "blurring"}}, array(f"{tag}_x0").shape[1:]
    )
    assert isinstance(process, SpectralProcess)
    return process


@pytest.mark.parametrize("tag", TAGS)
def test_signal_and_noise_levels_match(tag: str) -> None:
    np.testing.assert_allclose(ARRAYS[f"{tag}_t"] / ARRAYS[f"{tag}_t"][-1], FRACTIONS, rtol=1e-6)
    process = process_of(tag)
    m = process.marginal(torch.tensor(FRACTIONS, dtype=torch.float64))
    alpha = array(f"{tag}_alpha").flatten(1).repeat(1, process.shape[0])
    torch.testing.assert_close(m.alpha, alpha, rtol=0, atol=2e-6)
    torch.testing.assert_close(m.sigma[:, :1], array(f"{tag}_sigma")[:, None], rtol=0, atol=2e-6)


@pytest.mark.parametrize("tag", TAGS)
def test_noised_images_match(tag: str) -> None:
    process, x_0 = process_of(tag), array(f"{tag}_x0")
    for t, eps, expected in zip(FRACTIONS, array(f"{tag}_eps"), array(f"{tag}_z"), strict=True):
        torch.testing.assert_close(process.corrupt(x_0, t, eps), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("tag", TAGS)
def test_a_reverse_step_is_the_posterior_of_the_process(tag: str) -> None:
    process, z_t = process_of(tag), array(f"{tag}_zt")
    u_t = process.to_components(z_t)
    for index, expected in enumerate(array(f"{tag}_denoise")):
        s, t = FRACTIONS[index], FRACTIONS[index + 1]
        x_0 = Prediction("eps", 0.1 * u_t, u_t, process.marginal(t)).x_0
        mean, covariance = process.posterior(u_t[:, None], x_0, s, t)
        noise = array(f"{tag}_denoise_noise")[index].flatten(1)
        found = process.to_data(mean[:, 0] + covariance[:, 0, 0].sqrt() * noise)
        # Seen there: 7e-6 of the size, from clips at 1e-8 in its variances and float32.
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5 * float(expected.abs().max()))
