"""What every orthonormal basis of the data space can do."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor


class Basis(ABC):
    """A real orthonormal basis B: components c = B x, data x = B^T c.

    `shape` is `(C, H, W)` or `(D,)`; components are `(batch, dim)`, dim = C*H*W, flattened in the (C, H, W) order of
    the transform's own layout. Both directions keep the dtype and device of their argument.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Number of components."""
        return math.prod(self.shape)

    @abstractmethod
    def to_components(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch dim"]:
        """Components c = B x."""

    @abstractmethod
    def to_data(self, c: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch *shape"]:
        """Data x = B^T c."""

    @property
    def frequency(self) -> Float[Tensor, "dim"] | None:
        """Radial index |k| of each component (dct, fourier), index of `(D,)` data, rank (pca), or None."""
        return None

    @property
    def level(self) -> Float[Tensor, "dim"] | None:
        """Scale of each component (haar), 0 = coarsest, or None."""
        return None

    @property
    def column(self) -> Float[Tensor, "dim"] | None:
        """Image column of each component (pixel; haar: within its sub-band), or None."""
        return None

    @property
    def row(self) -> Float[Tensor, "dim"] | None:
        """Image row of each component (pixel; haar: within its sub-band), or None."""
        return None

    def matrix(self) -> Float[Tensor, "dim dim"]:
        """B as a dense float64 matrix, one component per row; for tests and small data."""
        unit = torch.eye(self.dim, dtype=torch.float64).reshape(self.dim, *self.shape)
        return self.to_components(unit).T.contiguous()

    def per_channel(self, label: Tensor) -> Float[Tensor, "dim"]:
        """The labels of one channel's coefficients, repeated for all channels and flattened, float64."""
        return label.to(torch.float64).expand(self.shape).reshape(-1)

    def _rows(self, x: Tensor) -> int:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"data of shape (batch, {', '.join(map(str, self.shape))}) expected, found {tuple(x.shape)}"
            )
        return x.shape[0]
