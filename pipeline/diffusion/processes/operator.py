"""Degradation in levels by an operator on whole images: a mean D(x_0, t) and a noise, and no spectral identities."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.bases import Basis, build_basis
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.processes.operators import Operator, OperatorUnion
from pipeline.diffusion.processes.spectral import Time, as_times
from pipeline.diffusion.processes.terminal import Density, Terminal
from pipeline.diffusion.schedules.fades import Fade, fade_levels
from pipeline.diffusion.schedules.levels import interpolated, level_position
from pipeline.diffusion.statistics import Statistics


class OperatorSpec(Spec):
    """c_t = b_t (D(x_0, t) - m) + noise in pixels; level k of T lies at t = k/T, and t = 0 is the clean image."""

    kind: Literal["operator"] = "operator"
    degradation: OperatorUnion
    num_levels: Annotated[int, Field(ge=1)]  # T
    fade: Fade = "none"  # b_t, falling to 0 at t = 1: the image ends at the centre
    noise: Annotated[float, Field(ge=0.0)] = 0.0  # standard deviation added at every level, on the [-1, 1] scale
    centre: Literal["grey", "black", "mean"] = "grey"  # m

    def build(self, shape: tuple[int, ...], statistics: Statistics | None) -> "OperatorProcess":
        """The process for data of `shape`.

        Raises:
            ConfigError: the shape or the number of levels do not fit, or statistics are needed and missing.
        """
        operator = self.degradation.build(shape, self.num_levels)
        basis = build_basis("pixel", shape)
        if statistics is not None and statistics.dim != basis.dim:
            raise ConfigError(f"statistics are of {statistics.dim} components, the data shape has {basis.dim}")
        if self.centre == "mean" and statistics is None:
            raise ConfigError("centre mean needs data statistics; none were given")
        mean = torch.zeros(basis.dim, dtype=torch.float64) if statistics is None else statistics.mean
        centre = mean if self.centre == "mean" else torch.full_like(mean, {"grey": 0.0, "black": -1.0}[self.centre])
        return OperatorProcess(
            spec=self,
            basis=basis,
            operator=operator,
            fade=fade_levels(self.fade, self.num_levels),
            centre=centre,
            variances=None if statistics is None else statistics.variances_in(basis),
            mean_components=torch.zeros_like(mean) if statistics is None else mean - centre,
            terminal=None,
        )


@dataclass(frozen=True, eq=False)
class OperatorProcess:
    """An immutable degradation that only corrupts: it has no marginal per component, hence no posterior or density.

    Attributes:
        spec: what it was built from. basis: pixels. operator: D.
        fade: b_0 ... b_T, `(T + 1,)`. centre: m, `(dim,)` in data space.
        variances: of the pixels, `(dim,)`, or None without statistics.
        mean_components: E[c_0] = mean - m, `(dim,)`, zeros without statistics.
        terminal: where x_T comes from, or None.
    """

    spec: OperatorSpec
    basis: Basis
    operator: Operator
    fade: Tensor
    centre: Tensor
    variances: Tensor | None
    mean_components: Tensor
    terminal: Terminal | Density | None

    num_copies = 1
    """J."""

    is_degradation = True
    """Little or no noise, the time told to the network."""

    @property
    def num_levels(self) -> int:
        """T."""
        return self.spec.num_levels

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one datum."""
        return self.basis.shape

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.basis.dim

    def to_components(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch dim"]:
        """c = x - m, affine; keeps dtype and device."""
        return self.basis.to_components(x - self._shaped_centre.on(x.device, x.dtype))

    def to_data(self, c: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch *shape"]:
        """x = m + c, affine; keeps dtype and device."""
        return self.basis.to_data(c) + self._shaped_centre.on(c.device, c.dtype)

    def degrade(self, c_0: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, "batch dim"]:
        """Mean of c_t, the degraded datum D(x_0, t) in components; the datum itself at t = 0. Keeps c_0's dtype.

        Args:
            c_0: clean data.
            t: float, 0-d, or one time for each datum.
        """
        position = level_position(as_times(t)[:, None], self.num_levels).to(c_0.device).expand(len(c_0), 1)
        degraded = self.to_components(self.operator(self.to_data(c_0), position[:, 0]))
        return interpolated(self._fade.on(c_0.device), position).to(c_0.dtype) * degraded

    def sigma(self, t: Time) -> Float[Tensor, "n 1"]:
        """Standard deviation of the noise at `t`, float64; it rises from 0 at t = 0 to `noise` at the first level."""
        return self.spec.noise * level_position(as_times(t)[:, None], self.num_levels).clamp(max=1.0)

    def corrupt(
        self, x_0: Float[Tensor, "batch *shape"], t: Time, noise: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """x_t of x_0 under unit noise of its shape, both in data space; keeps x_0's dtype."""
        sigma = self.sigma(t).to(device=x_0.device, dtype=x_0.dtype)
        c_t = self.degrade(self.to_components(x_0), t) + sigma * self.basis.to_components(noise.to(x_0.dtype))
        return self.to_data(c_t)

    @cached_property
    def _fade(self) -> Constant:
        return Constant(self.fade[:, None])

    @cached_property
    def _shaped_centre(self) -> Constant:
        return Constant(self.centre.reshape(self.shape))
