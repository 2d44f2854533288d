"""Orthonormal bases of the data space and their table."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from pipeline.config import ConfigError, closest
from pipeline.diffusion.bases.base import Basis
from pipeline.diffusion.bases.colour import ColourBasis
from pipeline.diffusion.bases.dct import DctBasis
from pipeline.diffusion.bases.fourier import FourierBasis
from pipeline.diffusion.bases.haar import HaarBasis
from pipeline.diffusion.bases.haar_dct import HaarDctBasis
from pipeline.diffusion.bases.pca import PcaBasis
from pipeline.diffusion.bases.pixel import PixelBasis

__all__ = [
    "BASES",
    "Basis",
    "ColourBasis",
    "DctBasis",
    "FourierBasis",
    "HaarBasis",
    "HaarDctBasis",
    "PcaBasis",
    "PixelBasis",
    "build_basis",
]


@runtime_checkable
class HasComponents(Protocol):
    """Fitted statistics of a data set, as far as a basis needs them."""

    @property
    def components(self) -> Tensor | None:
        """Orthonormal rows `(dim, dim)`, or None."""
        ...


def _pca(shape: tuple[int, ...], components: Tensor | None) -> Basis:
    if components is None:
        raise ConfigError("basis pca needs data statistics with components; none were given")
    return PcaBasis(shape, components)


BASES: dict[str, Callable[[tuple[int, ...], Tensor | None], Basis]] = {
    "pixel": lambda shape, components: PixelBasis(shape),
    "dct": lambda shape, components: DctBasis(shape),
    "fourier": lambda shape, components: FourierBasis(shape),
    "haar": lambda shape, components: HaarBasis(shape),
    "haar_dct": lambda shape, components: HaarDctBasis(shape),
    "colour": lambda shape, components: ColourBasis(shape),
    "pca": _pca,
}
"""Name -> constructor from the data shape and the fitted components (pca only)."""


def build_basis(name: str, shape: tuple[int, ...], statistics: HasComponents | None = None) -> Basis:
    """The basis called `name` for data of `shape` (`(C, H, W)` or `(D,)`).

    Raises:
        ConfigError: unknown name, a shape of another length, or pca without fitted components.
    """
    if name not in BASES:
        raise ConfigError(f"basis: unknown name {name!r}{closest(name, list(BASES))}")
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ConfigError(f"data shape must be (C, H, W) or (D,), found {tuple(shape)}")
    return BASES[name](tuple(int(size) for size in shape), None if statistics is None else statistics.components)
