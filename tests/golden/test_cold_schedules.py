"""Level schedules of the published cold diffusion code, by the names they have here (cold/README.md)."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import ConfigError
from pipeline.diffusion import build_process
from pipeline.diffusion.processes.operators.pixelate_nearest import PixelateNearestSpec, vcd_sizes
from pipeline.diffusion.schedules.fades import Fade, fade_levels
from pipeline.diffusion.schedules.heat import HeatSpec
from pipeline.diffusion.schedules.kernels import KernelWidths
from pipeline.networks.embeddings import sinusoids

ARRAYS = np.load(Path(__file__).parent / "cold" / "schedules.npz")


def cases(suffix: str) -> list:
    """(key, T, N) of every array called `T{T}_N{N}_{suffix}`."""
    found = [(key, re.fullmatch(rf"T(\d+)_N(\d+)_{suffix}", key)) for key in ARRAYS.files]
    return [pytest.param(key, int(match[1]), int(match[2]), id=key) for key, match in found if match]


@pytest.mark.parametrize(("key", "num_levels", "side"), cases("dct_sigma"))
def test_published_blur_widths(key: str, num_levels: int, side: int) -> None:
    widths = HeatSpec(num_levels=num_levels, levels="vcd").widths(side)
    assert widths[0] == 0
    np.testing.assert_allclose(widths[1:], ARRAYS[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "fade"), [("black", "vcd_cosine"), ("black_linear", "linear"), ("black_exponential", "vcd_exponential")]
)
def test_published_fades(suffix: str, fade: Fade) -> None:
    for case in cases(suffix):
        key, num_levels, _ = case.values
        np.testing.assert_allclose(fade_levels(fade, int(num_levels))[1:], ARRAYS[str(key)], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("key", "num_levels", "side"), cases("pixel"))
def test_published_block_sizes_are_exact(key: str, num_levels: int, side: int) -> None:
    assert vcd_sizes(side, num_levels) == tuple(ARRAYS[key])


@pytest.mark.parametrize(("key", "num_levels", "side"), cases("pixel"))
def test_published_block_sizes_are_offered_unless_a_level_does_nothing(key: str, num_levels: int, side: int) -> None:
    spec = PixelateNearestSpec(levels="vcd")
    if (np.diff(ARRAYS[key]) > 0).all():
        assert spec.sizes(side, num_levels) == tuple(ARRAYS[key])
    else:
        with pytest.raises(ConfigError, match="does nothing"):
            spec.sizes(side, num_levels)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("constant", KernelWidths(kernel_std=2.0)),
        ("exponential", KernelWidths(kernel_std=1.0, growth=0.01, growth_law="exponential")),
        ("cifar", KernelWidths(kernel_std=0.35, growth=0.01)),
    ],
)
def test_published_kernel_widths(name: str, widths: KernelWidths) -> None:
    expected = ARRAYS[f"bansal_std_{name}"]
    np.testing.assert_allclose(widths.stds(len(expected), widths.kernel_std or 0.0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", [key for key in ARRAYS.files if key.startswith("ihdm_sigma")])
def test_published_heat_dissipation_widths(key: str) -> None:
    num_levels, blur_max = (int(number) for number in re.findall(r"\d+", key))
    widths = HeatSpec(num_levels=num_levels, blur_min=0.5, blur_max=float(blur_max)).widths(28)
    np.testing.assert_allclose(widths, ARRAYS[key], rtol=1e-12, atol=0)


def alpha_bar(schedule: dict, num_levels: int) -> torch.Tensor:
    """alpha^2 at t = 0, 1/T ... 1."""
    process = build_process({"kind": "spectral", "schedule": schedule}, (1,))
    return process.marginal(torch.arange(num_levels + 1, dtype=torch.float64) / num_levels).alpha[:, 0].square()


@pytest.mark.parametrize("kind", ["cosine", "sigmoid", "linear"])
def test_published_noise_levels(kind: str) -> None:
    for case in cases(f"abar_{kind}"):
        key, num_levels, _ = case.values
        T = int(str(num_levels))
        schedule = {"kind": kind, "num_levels": T}
        expected, betas = ARRAYS[str(key)], ARRAYS[str(key).replace("abar", "beta")]
        if kind == "linear":
            values = np.linspace(0.1 / T, 20 / T, T)
            if T == 20:  # its last beta is 1: nothing of the signal is left, and no schedule here allows it
                with pytest.raises(ConfigError, match="less than 1"):
                    alpha_bar({"kind": "linear_beta", "beta_min": 0.1 / T, "beta_max": 20 / T, "num_levels": T}, T)
                values, expected, betas = values[:-1], expected[:-1], betas[:-1]
            schedule = {"kind": "betas", "values": values.tolist()}
        found = alpha_bar(schedule, len(expected))
        np.testing.assert_allclose(found[1:], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(1 - found[1:] / found[:-1], betas, rtol=0, atol=5e-5)


def test_published_linear_betas_are_the_linear_schedule() -> None:
    schedule = {"kind": "linear_beta", "beta_min": 0.1 / 100, "beta_max": 20 / 100, "num_levels": 100}
    np.testing.assert_allclose(alpha_bar(schedule, 100)[1:], ARRAYS["T100_N28_abar_linear"], rtol=0, atol=1e-6)


def test_noise_levels_of_hot_diffusion() -> None:
    found = alpha_bar({"kind": "cosine", "num_levels": 20}, 20)
    np.testing.assert_allclose(found[1:], ARRAYS["hot_cosine_abar_T20"], rtol=0, atol=1e-6)


def test_every_array_is_compared() -> None:
    elsewhere = re.compile(r"kl_anneal_curve_\d+|temb(_t)?")  # tests of objectives and embeddings
    here = re.compile(
        r"T\d+_N\d+_(dct_sigma|black(_linear|_exponential)?|pixel|(beta|abar)_(cosine|sigmoid|linear))"
        r"|bansal_std_(constant|exponential|cifar)|ihdm_sigma_K\d+_max\d+|hot_cosine_abar_T20"
    )
    assert [key for key in ARRAYS.files if not here.fullmatch(key) and not elsewhere.fullmatch(key)] == []


def test_published_time_embedding() -> None:
    embedding = ARRAYS["temb"]
    half = embedding.shape[1] // 2
    frequencies = 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    found = sinusoids(torch.from_numpy(ARRAYS["temb_t"]), frequencies.float())
    np.testing.assert_allclose(found, embedding, rtol=0, atol=1e-6)
