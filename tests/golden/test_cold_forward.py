"""Degraded images of the published cold diffusion code are reproduced, in float64 (cold/README.md)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion import build_process
from pipeline.diffusion.processes import Process
from pipeline.diffusion.processes.operator import OperatorProcess, OperatorSpec
from pipeline.diffusion.processes.operators.pixelate_nearest import PixelateNearest, vcd_sizes
from pipeline.diffusion.processes.spectral import SpectralSpec

FOLDER = Path(__file__).parent / "cold"
VCD = np.load(FOLDER / "vcd_forward.npz")
COLD = np.load(FOLDER / "cold_forward_and_samplers.npz")
IHDM = np.load(FOLDER / "ihdm.npz")

HEAT = {"kind": "heat", "levels": "vcd"}
MNIST_KERNELS = {"kernel_size": 5, "kernel_std": 2.0}
CIFAR_KERNELS = {"kernel_size": 27, "kernel_std": 0.35, "growth": 0.01}


def spectral(shape: tuple[int, ...], basis: str, **schedule: Any) -> Process:
    spec = SpectralSpec.model_validate({"basis": basis, "schedule": schedule})
    return build_process(spec, shape)


def operator(shape: tuple[int, ...], num_levels: int, degradation: dict, **more: Any) -> OperatorProcess:
    spec = {"degradation": degradation, "num_levels": num_levels, **more}
    return OperatorSpec.model_validate(spec).build(shape, None)


def degraded(process: Any, x_0: Tensor, t: Tensor | float) -> Tensor:
    return process.to_data(process.degrade(process.to_components(x_0), t))


def vcd_process(tag: str, name: str) -> Any:
    """The process of a published degradation; black is 0 there, the middle of our range, so the centre is grey."""
    shape, T = VCD[f"{tag}_x0"].shape[1:], int(VCD[f"{tag}_T"])
    fade = "vcd_cosine" if name.startswith("black") else "none"
    if name.endswith("pixelation"):
        return operator(shape, T, {"kind": "pixelate_nearest", "levels": "vcd"}, fade=fade)
    if name == "blur_bansal" and tag == "c32":
        return operator(shape, T, {"kind": "reflect_blur", **CIFAR_KERNELS})
    basis, schedule = {
        "blur": ("dct", HEAT),
        "black_blur": ("dct", HEAT),
        "black": ("pixel", {"kind": "dim"}),
        "blur_bansal": ("fourier", {"kind": "kernel_blur", **MNIST_KERNELS}),
    }[name]
    return spectral(shape, basis, **schedule, num_levels=T, fade=fade)


NAMES = ["blur", "black", "black_blur", "blur_bansal", "pixelation", "black_pixelation"]
REPEATING = [("g16", "pixelation"), ("g16", "black_pixelation")]
"""Cases with a level that does nothing, which the specification refuses."""
CASES = [
    (tag, name)
    for tag in ("m28", "c32", "g16", "g8")
    for name in NAMES
    if f"{tag}_{name}" in VCD.files and (tag, name) not in REPEATING
]


@pytest.mark.parametrize(("tag", "name"), CASES)
def test_published_degradations_match(tag: str, name: str) -> None:
    process, x_0 = vcd_process(tag, name), torch.from_numpy(VCD[f"{tag}_x0"]).double()
    for level, expected in zip(VCD[f"{tag}_t"], VCD[f"{tag}_{name}"], strict=True):
        found = degraded(process, x_0, (level + 1) / process.num_levels)
        np.testing.assert_allclose(found, expected, rtol=0, atol=0 if name == "pixelation" else 5e-6)


@pytest.mark.parametrize(("tag", "name"), [case for case in CASES if f"{case[0]}_{case[1]}_mix" in VCD.files])
def test_published_degradations_match_with_a_level_for_each_image(tag: str, name: str) -> None:
    process, x_0 = vcd_process(tag, name), torch.from_numpy(VCD[f"{tag}_x0"])
    t = torch.from_numpy((VCD[f"{tag}_tmix"] + 1) / process.num_levels)
    found = degraded(process, x_0, t)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, VCD[f"{tag}_{name}_mix"], rtol=0, atol=0 if name == "pixelation" else 5e-6)


def test_published_pixelation_with_repeated_levels_matches() -> None:
    x_0, T = torch.from_numpy(VCD["g16_x0"]).double(), int(VCD["g16_T"])
    pixelate = PixelateNearest(vcd_sizes(16, T), (1, 16, 16))
    fade = vcd_process("g16", "black")
    for level, plain, black in zip(VCD["g16_t"], VCD["g16_pixelation"], VCD["g16_black_pixelation"], strict=True):
        found = pixelate(x_0, torch.full((2,), float(level) + 1, dtype=torch.float64))
        np.testing.assert_array_equal(found, plain)
        np.testing.assert_allclose(degraded(fade, found, (level + 1) / T), black, rtol=0, atol=5e-6)
    mixed = pixelate(x_0, torch.from_numpy(VCD["g16_tmix"] + 1).double())
    np.testing.assert_array_equal(mixed, VCD["g16_pixelation_mix"])


@pytest.mark.parametrize("tag", ["m28", "c32", "g16", "g8"])
def test_published_noise_matches(tag: str) -> None:
    x_0, eps = (torch.from_numpy(VCD[f"{tag}_{part}"]).double() for part in ("x0", "eps"))
    T = int(VCD[f"{tag}_T"])
    process = spectral(tuple(x_0.shape[1:]), "pixel", kind="cosine", num_levels=T)
    for level, expected in zip(VCD[f"{tag}_t"], VCD[f"{tag}_noise"], strict=True):
        np.testing.assert_allclose(process.corrupt(x_0, (level + 1) / T, eps), expected, rtol=0, atol=5e-6)


def cold_levels(process: Any, x_0: Tensor) -> Tensor:
    T = process.num_levels
    return torch.stack([degraded(process, x_0, (level + 1) / T) for level in range(T)])


EXPONENTIAL = {"kernel_size": 9, "kernel_std": 1.0, "growth": 0.01, "growth_law": "exponential"}


@pytest.mark.parametrize(
    ("tag", "process"),
    [
        (
            "const",
            spectral((1, 16, 16), "fourier", kind="kernel_blur", num_levels=6, with_flat_end=False, **MNIST_KERNELS),
        ),
        ("exp", spectral((1, 16, 16), "fourier", kind="kernel_blur", num_levels=6, with_flat_end=False, **EXPONENTIAL)),
        (
            "special6",
            operator(
                (1, 16, 16), 8, {"kind": "reflect_blur", **CIFAR_KERNELS, "kernel_size": 11, "with_flat_end": False}
            ),
        ),
        ("res_area", spectral((1, 16, 16), "haar_dct", kind="block_mean", num_levels=4)),
        (
            "fade",
            spectral(
                (3, 12, 12), "pixel", kind="masking", levels="cold", num_levels=6, kernel_std=0.2, with_zero_end=False
            ),
        ),
    ],
)
def test_cold_diffusion_levels_match(tag: str, process: Any) -> None:
    found = cold_levels(process, torch.from_numpy(COLD[f"{tag}_x0"]).double())
    np.testing.assert_allclose(found, COLD[f"{tag}_q"], rtol=0, atol=1e-5)


def test_cold_diffusion_levels_match_before_they_are_truncated() -> None:
    process = spectral((3, 12, 12), "fourier", kind="kernel_blur", num_levels=6, **EXPONENTIAL)
    levels = cold_levels(process, torch.from_numpy(COLD["expdisc_x0"]).double())
    # Their last step to 256 levels cuts off the fraction: an error of one step, unless a value is next to an integer.
    scaled = (levels + 1) / 2 * 255
    truncated = scaled.floor() / 255 * 2 - 1
    is_clear = (scaled - scaled.round()).abs() > 1e-3
    assert is_clear.double().mean() > 0.99
    expected = torch.from_numpy(COLD["expdisc_q"]).double()
    torch.testing.assert_close(truncated[is_clear], expected[is_clear], rtol=0, atol=1e-5)
    torch.testing.assert_close(truncated, expected, rtol=0, atol=2 / 255 + 1e-5)


@pytest.mark.parametrize("name", ["fade_mask", "fadegen_alpha_fwd"])
def test_cold_diffusion_masks_match(name: str) -> None:
    process = spectral(
        (1, 12, 12), "pixel", kind="masking", levels="cold", num_levels=6, kernel_std=0.2, with_zero_end=False
    )
    alpha = process.marginal(torch.arange(1, 7, dtype=torch.float64) / 6).alpha
    np.testing.assert_allclose(alpha.reshape(6, 12, 12), COLD[name], rtol=0, atol=1e-5)


def test_hot_diffusion_levels_match() -> None:
    x_0, z = (torch.from_numpy(COLD[f"hot_{part}"]).double() for part in ("x0", "z"))
    process = spectral((3, 8, 8), "pixel", kind="cosine", num_levels=20)
    for level, expected in enumerate(COLD["hot_q"]):
        np.testing.assert_allclose(process.corrupt(x_0, (level + 1) / 20, z), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("tag", "blur_max"), [("i12", 9.0), ("i28", 20.0)])
def test_inverse_heat_dissipation_levels_match(tag: str, blur_max: float) -> None:
    x_0, K = torch.from_numpy(IHDM[f"{tag}_x0"]).double(), len(IHDM[f"{tag}_sigma_B"]) - 1
    process = spectral(tuple(x_0.shape[1:]), "dct", kind="heat", num_levels=K, blur_min=0.5, blur_max=blur_max)
    for level, expected in enumerate(IHDM[f"{tag}_blur"]):
        np.testing.assert_allclose(degraded(process, x_0, level / K), expected, rtol=0, atol=2e-6)
    for level, expected in zip((1, K), IHDM[f"{tag}_blur64"], strict=True):
        np.testing.assert_allclose(degraded(process, x_0, level / K), expected, rtol=0, atol=1e-7)
