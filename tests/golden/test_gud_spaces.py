"""Bases reproduce the public GUD library, scipy and pywt (gud/spaces.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.diffusion import Statistics, build_process
from pipeline.diffusion.bases import build_basis

ARRAYS = np.load(Path(__file__).parent / "gud" / "spaces.npz")


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["dct", "haar"])
def test_image_transforms_match(name: str) -> None:
    images = torch.from_numpy(ARRAYS["img"])[:, None]
    basis = build_basis(name, tuple(images.shape[1:]))
    c = basis.to_components(images)
    assert_close(c.numpy().reshape(ARRAYS[name].shape), ARRAYS[name])
    assert_close(basis.to_data(c).numpy(), images.numpy())


def channels_first(name: str) -> torch.Tensor:
    """`(batch, component, channel)` as rows `(batch * channel, component)`."""
    values = ARRAYS[name]
    return torch.from_numpy(values.transpose(0, 2, 1).reshape(-1, values.shape[1]).copy())


def pca_process() -> tuple[Statistics, torch.Tensor]:
    covariance = torch.from_numpy(ARRAYS["pca_cov"])
    statistics = Statistics.from_moments(torch.zeros(6), covariance, "pca", (6,), quantisation=None)
    assert statistics.components is not None
    # The peer sorts by rising variance and leaves signs free.
    peer = torch.from_numpy(ARRAYS["pca_U"]).flip(0)
    return statistics, (statistics.components * peer).sum(dim=1).sign()


def test_fitted_principal_components_match_up_to_sign() -> None:
    statistics, sign = pca_process()
    assert statistics.components is not None
    assert_close((sign[:, None] * statistics.components).numpy(), ARRAYS["pca_U"][::-1])
    assert_close(statistics.variances.sqrt().numpy(), ARRAYS["pca_scale"][::-1])


def test_pca_coordinates_match() -> None:
    statistics, sign = pca_process()
    process = build_process(
        {"kind": "spectral", "basis": "pca", "prior": "data", "schedule": {"kind": "vp"}}, (6,), statistics
    )
    x = channels_first("pca_data")
    c = process.to_components(x)
    assert_close((sign * c).numpy(), channels_first("pca_comp").flip(1).numpy())
    white = c / process.scale
    assert_close((sign * white).numpy(), channels_first("pca_comp_white").flip(1).numpy())
    assert_close(process.to_data(white).numpy(), channels_first("pca_data_white").numpy())
    np.testing.assert_allclose(float(process.scale.log().sum()), float(ARRAYS["pca_logdet_S"]), rtol=1e-9)


def test_scores_are_covectors() -> None:
    statistics, sign = pca_process()
    basis = build_basis("pca", (6,), statistics)
    scale = statistics.variances.sqrt()
    score = basis.to_components(channels_first("pca_score_data"))
    assert_close((sign * score).numpy(), channels_first("pca_score_comp").flip(1).numpy())
    assert_close((sign * score * scale).numpy(), channels_first("pca_score_comp_white").flip(1).numpy())
    assert_close(basis.to_data(score * scale).numpy(), channels_first("pca_score_data_white").numpy())


def complex_spectrum(c: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The complex FFT from real cosine/sine components: F(k) = (c_k + i c_-k)/sqrt(2) for the first of a pair."""
    height, width = shape
    index = torch.arange(height * width).reshape(shape)
    partner = index.flip(0, 1).roll((1, 1), (0, 1)).reshape(-1)
    index = index.reshape(-1)
    first = torch.complex(c, c[:, partner]) / 2**0.5
    second = torch.complex(c[:, partner], -c) / 2**0.5
    return torch.where(index == partner, c.to(torch.complex128), torch.where(index < partner, first, second))


def test_fourier_coefficients_match_the_complex_transform() -> None:
    shape = tuple(int(size) for size in ARRAYS["fft_shape"])
    basis = build_basis("fourier", (1, *shape))
    x = channels_first("fft_data").reshape(-1, 1, *shape)
    c = basis.to_components(x)
    spectrum = complex_spectrum(c, shape)
    assert_close(spectrum.real.numpy(), channels_first("fft_comp_re").numpy())
    assert_close(spectrum.imag.numpy(), channels_first("fft_comp_im").numpy())
    assert basis.frequency is not None
    assert_close(basis.frequency.reshape(shape).numpy(), ARRAYS["fft_kradius"])


def test_fourier_whitening_matches() -> None:
    shape = tuple(int(size) for size in ARRAYS["fft_shape"])
    basis = build_basis("fourier", (1, *shape))
    white = basis.to_components(channels_first("fft_data").reshape(-1, 1, *shape)) / torch.from_numpy(
        ARRAYS["fft_scale"]
    )
    spectrum = complex_spectrum(white, shape)
    assert_close(spectrum.real.numpy(), channels_first("fft_comp_white_re").numpy())
    assert_close(spectrum.imag.numpy(), channels_first("fft_comp_white_im").numpy())
    assert_close(basis.to_data(white).reshape(len(white), -1).numpy(), channels_first("fft_data_white").numpy())
