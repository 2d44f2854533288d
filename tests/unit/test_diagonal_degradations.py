"""Which degradation is diagonal in which basis, from full matrices written without any basis."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.diffusion import build_process
from pipeline.diffusion.bases import build_basis
from pipeline.diffusion.processes.degradations import DEGRADATIONS

BASES = ("pixel", "dct", "fourier", "haar", "haar_dct", "colour")
SIDES = (8, 16)
FADE = math.cos(math.pi / 2 * 2 / 3) ** 2
"""Every case is level 2 of 3."""


def heat(x: Tensor) -> Tensor:
    """Width 1 pixel, the middle of 0.5, 1, 2."""
    k2 = (math.pi * torch.arange(x.shape[-1], dtype=torch.float64) / x.shape[-1]).square()
    spectrum = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"))
    spectrum = spectrum * torch.exp(-(k2[:, None] + k2) / 2)
    return torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))


def convolved_twice(x: Tensor, padding: str) -> Tensor:
    line = torch.exp(-torch.arange(-2.0, 3.0, dtype=torch.float64).square() / 8)
    kernel = torch.outer(line, line) / line.sum().square()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    for _ in range(2):
        flat = F.conv2d(F.pad(flat, (2, 2, 2, 2), mode=padding), kernel[None, None])
    return flat.reshape(x.shape)


def masked(x: Tensor) -> Tensor:
    r = torch.arange(x.shape[-1], dtype=torch.float64) - (x.shape[-1] - 1) // 2
    radius2 = r.square()[:, None] + r.square()
    return x * (1 - torch.exp(-radius2 / 2)) * (1 - torch.exp(-radius2 / 8))


def nearest(x: Tensor) -> Tensor:
    """Every 3rd of 8 pixels, every 4th of 16: the published two calls."""
    block = {8: 3, 16: 4}[x.shape[-1]]
    return F.interpolate(F.interpolate(x, scale_factor=1 / block, mode="nearest"), size=x.shape[-2:], mode="nearest")


def block_means(x: Tensor) -> Tensor:
    """Two of the three scales of 8 pixels are gone, three of the four of 16."""
    block = x.shape[-1] // 2
    return F.avg_pool2d(x, block).repeat_interleave(block, -1).repeat_interleave(block, -2)


def discoloured(x: Tensor) -> Tensor:
    grey = x.mean(dim=1, keepdim=True)
    return grey + (x - grey) / 3


KERNELS = {"kernel_size": 5, "kernel_std": 2.0}
WIDTHS = {"blur_min": 0.5, "blur_max": 2.0}
CASES: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor], set[str]]] = {
    "black": ({}, lambda x: FADE * x, set(BASES)),
    "blur": (WIDTHS, heat, {"dct"}),
    "black_blur": (WIDTHS, lambda x: FADE * heat(x), {"dct"}),
    "kernel_blur": (KERNELS, lambda x: convolved_twice(x, "circular"), {"fourier"}),
    "black_kernel_blur": (KERNELS, lambda x: FADE * convolved_twice(x, "circular"), {"fourier"}),
    "pixelate": ({}, block_means, {"haar", "haar_dct"}),
    "black_pixelate": ({}, lambda x: FADE * block_means(x), {"haar", "haar_dct"}),
    "fade": ({"levels": "cold", "kernel_std": 1.0}, masked, {"pixel"}),
    "decolor": ({}, discoloured, {"colour"}),
    "pixelate_nearest": ({}, nearest, set()),
    "black_pixelate_nearest": ({}, lambda x: FADE * nearest(x), set()),
    "kernel_blur_reflect": (KERNELS, lambda x: convolved_twice(x, "reflect"), set()),
}
"""Degradation -> options, the same written without a basis, and the bases in which it is diagonal."""

SPATIAL = tuple(name for name in CASES if name != "decolor")


def test_every_degradation_without_noise_has_a_case() -> None:
    assert set(CASES) == {name for name, degradation in DEGRADATIONS.items() if not degradation.is_gaussian}


def shape_of(name: str, side: int) -> tuple[int, int, int]:
    return (1 if name in SPATIAL else 3, side, side)


def matrix_of(name: str, side: int) -> Tensor:
    """The degradation as a matrix on flattened images, `(dim, dim)` float64."""
    shape = shape_of(name, side)
    dim = math.prod(shape)
    unit = torch.eye(dim, dtype=torch.float64).reshape(dim, *shape)
    return CASES[name][1](unit).reshape(dim, dim).T


def off_diagonal(A: Tensor, basis: str, shape: tuple[int, ...]) -> float:
    """Size of B A B^T off its diagonal, relative to A."""
    fixed = build_basis(basis, shape)
    rotated = fixed.to_components(fixed.to_components(A.reshape(-1, *shape)).T.reshape(-1, *shape)).T
    return float((rotated - rotated.diagonal().diag()).norm() / A.norm())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", CASES)
def test_degradations_are_what_their_names_say(name: str, side: int) -> None:
    shape = shape_of(name, side)
    process = build_process(DEGRADATIONS[name].process({**CASES[name][0], "num_levels": 3}), shape)
    x = 2 * torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    found = process.to_data(process.degrade(process.to_components(x), 2 / 3))
    centre = process.centre.reshape(shape)
    expected = centre + CASES[name][1](x - centre)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", CASES)
def test_degradations_are_diagonal_in_these_bases_only(name: str, side: int) -> None:
    bases = [basis for basis in BASES if basis != "colour" or name not in SPATIAL or name == "black"]
    sizes = {basis: off_diagonal(matrix_of(name, side), basis, shape_of(name, side)) for basis in bases}
    assert {basis for basis, size in sizes.items() if size < 1e-12} == CASES[name][2]
    assert all(size > 0.05 for basis, size in sizes.items() if basis not in CASES[name][2])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name, (_, _, bases) in CASES.items() if not bases])
def test_operators_are_diagonal_in_no_orthonormal_basis_at_all(name: str, side: int) -> None:
    A = matrix_of(name, side)
    assert (A - A.T).norm() / A.norm() > 0.01


def levels_of(name: str, side: int, num_levels: int, **options: Any) -> list[Tensor]:
    """Matrices of levels 0 ... T about the centre, from the process."""
    shape = shape_of(name, side)
    process = build_process(DEGRADATIONS[name].process({**options, "num_levels": num_levels}), shape)
    unit = torch.eye(process.dim, dtype=torch.float64)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    matrices = []
    for level in range(num_levels + 1):
        image = process.to_data(process.degrade(process.to_components(unit.reshape(-1, *shape)), level / num_levels))
        origin = process.to_data(process.degrade(process.to_components(zero), level / num_levels))
        matrices.append((image - origin).reshape(process.dim, process.dim).T)
    return matrices


def test_heat_is_a_semigroup() -> None:
    # Widths add in squares: 3-4-5 and 5-12-13.
    a, b, rest = (levels_of("blur", 8, 1, blur_max=width)[1] for width in (3.0, 5.0, 4.0))
    torch.testing.assert_close(rest @ a, b, rtol=0, atol=1e-12)


def test_degrading_further_is_the_ratio_of_the_factors() -> None:
    spec = DEGRADATIONS["black_blur"].process({"num_levels": 5, "blur_max": 4.0})
    process = build_process(spec, (1, 8, 8))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    c_a, c_b = (process.degrade(process.to_components(x), t) for t in (0.4, 0.8))
    F_ab, Q_ab = process.transition(0.4, 0.8)
    torch.testing.assert_close(F_ab[:, 0, 0] * c_a, c_b, rtol=0, atol=1e-12)
    assert (Q_ab == 0).all()


@pytest.mark.parametrize("name", ["blur", "kernel_blur", "pixelate", "decolor"])
def test_the_mean_is_never_changed(name: str) -> None:
    shape = (3, 8, 8)
    process = build_process(DEGRADATIONS[name].process({"num_levels": 4}), shape)
    x = torch.rand(2, *shape, dtype=torch.float64)
    for level in range(5):
        degraded = process.to_data(process.degrade(process.to_components(x), level / 4))
        axes = (1, 2, 3) if name == "decolor" else (2, 3)
        torch.testing.assert_close(degraded.mean(axes), x.mean(axes), rtol=0, atol=1e-14)


@pytest.mark.parametrize("side", [8, 12])
def test_block_means_are_nested_projections(side: int) -> None:
    matrices = levels_of("pixelate", side, 3)
    for level, coarse in enumerate(matrices):
        for fine in matrices[: level + 1]:
            torch.testing.assert_close(coarse @ fine, coarse, rtol=0, atol=1e-12)
            torch.testing.assert_close(fine @ coarse, coarse, rtol=0, atol=1e-12)


def test_nearest_pixelation_is_no_projection_and_its_levels_do_not_commute() -> None:
    matrices = levels_of("pixelate_nearest", 14, 4)
    assert any((A @ A - A).norm() > 0.1 for A in matrices)
    assert any((A @ B - B @ A).norm() > 0.1 for A in matrices for B in matrices)


def test_mirrored_convolution_moves_the_mean() -> None:
    blurred = levels_of("kernel_blur_reflect", 8, 4)[2].mean(dim=0)
    assert (blurred - 1 / 64).abs().max() > 1e-3
