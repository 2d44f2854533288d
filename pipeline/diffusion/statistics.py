"""Mean and per-component variance of a data set, in the basis a process works in."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.bases import Basis, build_basis

RELATIVE_FLOOR = 1e-12
"""Smallest variance, as a share of the largest, where the data have no quantisation step."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Second-order statistics of a data set, float64.

    Attributes:
        mean: `(dim,)`, in data space, flattened.
        variances: `(dim,)`, of the components: in the order of `components`' rows, or of the process's own basis when
            `components` is None. Kept as given.
        components: `(dim, dim)` orthonormal rows (principal components), or None.
    """

    mean: Tensor
    variances: Tensor
    components: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "variances", "components"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, torch.as_tensor(value).detach().to("cpu", torch.float64))
        dim = self.variances.shape[0]
        if self.mean.shape != (dim,) or self.variances.ndim != 1:
            raise ConfigError(
                f"statistics: mean and variances must both be (dim,), found {tuple(self.mean.shape)}"
                f" and {tuple(self.variances.shape)}"
            )
        if self.components is not None and self.components.shape != (dim, dim):
            raise ConfigError(f"statistics: components must be ({dim}, {dim}), found {tuple(self.components.shape)}")
        if not bool((self.variances > 0).all()):
            raise ConfigError("statistics: every variance must be positive")

    @classmethod
    def of(cls, x: Tensor, basis: str, quantisation: int | None = 256) -> "Statistics":
        """Fits mean and variances to data.

        Args:
            x: `(n, *shape)` data in [-1, 1].
            basis: name of the basis; `pca` also fits the components, sorted by falling variance.
            quantisation: number of levels of the data; step^2/12 with step = 2/quantisation is added to each variance
                (the data's own resolution). None: no floor beyond 1e-12 of the largest variance.
        """
        shape = tuple(x.shape[1:])
        flat = x.reshape(x.shape[0], -1).to("cpu", torch.float64)
        mean = flat.mean(dim=0)
        centred = flat - mean
        if basis == "pca":
            covariance = centred.T @ centred / x.shape[0]
            return cls.from_moments(mean, covariance, basis, shape=shape, quantisation=quantisation)
        c = build_basis(basis, shape).to_components(centred.reshape(-1, *shape))
        return cls(mean, _floored(c.square().mean(dim=0), quantisation))

    @classmethod
    def from_moments(
        cls, mean: Tensor, covariance: Tensor, basis: str, shape: tuple[int, ...], quantisation: int | None = 256
    ) -> "Statistics":
        """Statistics in `basis` from the data-space mean `(dim,)` and covariance `(dim, dim)`."""
        covariance = torch.as_tensor(covariance).to("cpu", torch.float64)
        if basis == "pca":
            values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
            components = _with_fixed_signs(vectors.flip(1).T.contiguous())
            return cls(mean, _floored(values.flip(0), quantisation), components)
        fixed = build_basis(basis, shape)
        half = fixed.to_components(covariance.reshape(-1, *shape))
        both = fixed.to_components(half.T.reshape(-1, *shape))
        return cls(mean, _floored(both.diagonal(), quantisation))

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.variances.shape[0]

    def variances_in(self, basis: Basis) -> Tensor:
        """Variance of each component of `basis`, `(dim,)`.

        Without `components`, or in the pca basis they define, these are `variances` as given; else the diagonal of
        B P^T diag(variances) P B^T with P the fitted components.
        """
        if self.components is None or basis.name == "pca":
            return self.variances
        rotated = basis.to_components(self.components.reshape(-1, *basis.shape))
        return self.variances @ rotated.square()

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """The statistics as named float64 arrays."""
        arrays = {"mean": self.mean.numpy(), "variances": self.variances.numpy()}
        if self.components is not None:
            arrays["components"] = self.components.numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64]]) -> "Statistics":
        """Inverse of `to_arrays`; also accepts an opened npz file."""
        components = torch.tensor(arrays["components"]) if "components" in arrays else None
        return cls(torch.tensor(arrays["mean"]), torch.tensor(arrays["variances"]), components)


def _floored(variances: Tensor, quantisation: int | None) -> Tensor:
    """Variances with the quantisation noise added: rank-deficient data otherwise have log variance -inf."""
    variances = variances.clamp(min=0.0)
    if quantisation is not None:
        step = 2.0 / quantisation
        return variances + step**2 / 12
    return torch.maximum(variances, RELATIVE_FLOOR * variances.max())


def _with_fixed_signs(components: Tensor) -> Tensor:
    """Eigenvectors have no sign of their own: make the largest entry of each row positive."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return components * components.gather(1, largest).sign()
