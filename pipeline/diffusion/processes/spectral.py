"""Diffusion per component of an orthonormal basis: c_t = alpha_i(t) c_0 + sigma_i(t) eps."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.bases import Basis, build_basis
from pipeline.diffusion.placement import Constant
from pipeline.diffusion.processes.marginal import AnyMarginal, ExplicitMarginal, Marginal, is_still, transition
from pipeline.diffusion.processes.terminal import Density, GaussianTerminal, Terminal
from pipeline.diffusion.schedules import ExplicitSchedule, RescaledSchedule, Schedule, ScheduleContext, ScheduleUnion
from pipeline.diffusion.statistics import Statistics

Time = float | int | Tensor


class SpectralSpec(Spec):
    """Basis, centre, prior scale and schedule of a per-component diffusion."""

    kind: Literal["spectral"] = "spectral"
    basis: Literal["pixel", "dct", "fourier", "haar", "pca", "colour", "haar_dct"] = "pixel"
    centre: Literal["grey", "black", "mean"] = "grey"
    prior: Literal["standard", "data"] = "standard"
    schedule: ScheduleUnion

    def build(
        self, shape: tuple[int, ...], statistics: Statistics | None, terminal: Terminal | Density | None = None
    ) -> "SpectralProcess":
        """The process for data of `shape`.

        Raises:
            ConfigError: statistics are needed and missing, or do not fit the shape.
        """
        basis = build_basis(self.basis, shape, statistics)
        if statistics is not None and statistics.dim != basis.dim:
            raise ConfigError(f"statistics are of {statistics.dim} components, the data shape has {basis.dim}")
        for field, value in (("centre", "mean"), ("prior", "data")):
            if getattr(self, field) == value and statistics is None:
                raise ConfigError(f"{field} {value} needs data statistics; none were given")
        variances = None if statistics is None else statistics.variances_in(basis)
        mean = torch.zeros(basis.dim, dtype=torch.float64) if statistics is None else statistics.mean
        centre = mean if self.centre == "mean" else torch.full_like(mean, {"grey": 0.0, "black": -1.0}[self.centre])
        offset = torch.zeros_like(mean) if statistics is None else mean - centre
        scale = torch.ones_like(mean) if self.prior == "standard" or variances is None else variances.sqrt()
        schedule = self.schedule.build(self._context(basis, variances))
        assert isinstance(schedule, Schedule | ExplicitSchedule)
        if self.prior == "data" and isinstance(schedule, ExplicitSchedule):
            raise ConfigError(
                "prior data scales the noise of a noise schedule; this schedule has noise of its own size"
            )
        return SpectralProcess(
            spec=self,
            basis=basis,
            schedule=schedule,
            centre=centre,
            scale=scale,
            variances=variances,
            mean_components=basis.to_components(offset.reshape(1, *basis.shape))[0],
            terminal=terminal,
        )

    def _context(self, basis: Basis, variances: Tensor | None) -> ScheduleContext:
        if variances is None:
            return ScheduleContext(basis.shape, basis.dim, basis)
        log_variances = variances.log()
        white = log_variances if self.prior == "standard" else torch.zeros_like(log_variances)
        return ScheduleContext(basis.shape, basis.dim, basis, white, log_variances)


@dataclass(frozen=True, eq=False)
class SpectralProcess:
    """An immutable diffusion with J = 1 copy per component.

    Attributes:
        spec: what it was built from. basis: orthonormal. schedule: gamma(t), or alpha(t) and sigma(t) as they are.
        centre: m, `(dim,)` in data space. scale: s, `(dim,)`, ones for the standard prior.
        variances: of the data in this basis, `(dim,)`, or None without statistics.
        mean_components: E[c_0] = B (mean - m), `(dim,)`, zeros without statistics.
        terminal: where x_T comes from, or its density, or None for N(0, diag s^2).
    """

    spec: SpectralSpec
    basis: Basis
    schedule: Schedule | ExplicitSchedule
    centre: Tensor
    scale: Tensor
    variances: Tensor | None
    mean_components: Tensor
    terminal: Terminal | Density | None

    num_copies = 1
    """J."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one datum."""
        return self.basis.shape

    @property
    def dim(self) -> int:
        """Number of components."""
        return self.basis.dim

    @property
    def num_levels(self) -> int | None:
        """T of a process with discrete levels k/T; None where it is given at all times."""
        return self.schedule.num_levels

    @property
    def is_degradation(self) -> bool:
        """Whether the levels are those of a degradation: little or no noise, the time told to the network."""
        return isinstance(self.schedule, ExplicitSchedule) and self.num_levels is not None

    def to_components(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch dim"]:
        """c = B (x - m), affine; keeps dtype and device."""
        if self.spec.centre == "grey":
            return self.basis.to_components(x)
        return self.basis.to_components(x - self._shaped_centre.on(x.device, x.dtype))

    def to_data(self, c: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch *shape"]:
        """x = m + B^T c, affine; keeps dtype and device."""
        x = self.basis.to_data(c)
        return x if self.spec.centre == "grey" else x + self._shaped_centre.on(x.device, x.dtype)

    def marginal(self, t: Time) -> AnyMarginal:
        """Law of c_t given c_0 at `t`: float, 0-d or `(n,)`; on t's device, float64."""
        times = as_times(t)
        schedule = self.schedule
        if isinstance(schedule, ExplicitSchedule):
            level = schedule(times)
            spread = self._log_variance_white.on(times.device)
            return ExplicitMarginal(level.alpha, level.sigma, spread, lambda: schedule.rates(times))
        level = schedule(times)
        return Marginal(
            level.gamma,
            level.d_gamma,
            level.beta,
            self._scale.on(times.device),
            self._log_variance_white.on(times.device),
        )

    def degrade(self, c_0: Float[Tensor, "batch dim"], t: Time) -> Float[Tensor, "batch dim"]:
        """Mean of c_t, the degraded datum D(x_0, t) in components; the datum itself at t = 0. Keeps c_0's dtype."""
        m = self.marginal(torch.as_tensor(t, dtype=torch.float64))
        return m.alpha.to(c_0) * c_0

    def sigma(self, t: Time) -> Float[Tensor, "n levels"]:
        """Standard deviation of the noise at `t`, `(n, 1 | dim)` float64."""
        return self.marginal(t).sigma

    def transition(self, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """F and Q of u_t = F u_s + N(0, Q) for s <= t, each `(n, J, J, 1 | dim)`.

        A component whose law does not change has F = 1 and Q = 0 exactly.
        """
        F, Q = transition(self.marginal(s), self.marginal(t))
        return F[:, None, None, :], Q[:, None, None, :]

    def drift(self, t: Time) -> tuple[Tensor, Tensor]:
        """A and G of du = A u dt + G dw, each `(n, J, J, 1 | dim)`: -beta/2 and s sqrt(beta) for a noise schedule."""
        m = self.marginal(t)
        if isinstance(m, Marginal):
            return (-m.beta / 2)[:, None, None, :], (m.scale * m.beta.sqrt())[:, None, None, :]
        A = m.alpha_rate / m.alpha
        G = (2 * m.sigma * (m.sigma_rate - A * m.sigma)).clamp(min=0.0).sqrt()
        return A[:, None, None, :], G[:, None, None, :]

    def posterior(
        self, u_t: Float[Tensor, "batch J dim"], x_0: Float[Tensor, "batch dim"], s: Time, t: Time
    ) -> tuple[Float[Tensor, "batch J dim"], Float[Tensor, "n J J _"]]:
        """Mean and covariance of u_s given u_t and x_0 (components), for s <= t.

        Kalman form with gain K = Sigma_s F / Sigma_t and 1 - K F = Q / Sigma_t, so nothing cancels: a component whose
        law does not change keeps u_t exactly, with covariance 0. Without noise at s, u_s is D(x_0, s).
        """
        earlier, later = self.marginal(s), self.marginal(t)
        F, Q = transition(earlier, later)
        still = is_still(earlier, later)
        # Logs: Sigma_s / Sigma_t would be 0/0 where both are clean.
        is_clean = earlier.log_sigma2.isneginf() & ~still
        log_ratio = torch.where(still, 0.0, earlier.log_sigma2 - later.log_sigma2)
        gain = torch.where(is_clean, 0.0, F * torch.exp(log_ratio))
        forgotten = torch.where(still, 0.0, Q / later.Sigma[:, 0, 0])
        forgotten = torch.where(is_clean, 1.0, forgotten)
        mean = earlier.alpha * forgotten * x_0 + gain * u_t[:, 0]
        covariance = forgotten * earlier.Sigma[:, 0, 0]
        return mean[:, None, :], covariance[:, None, None, :]

    def corrupt(
        self, x_0: Float[Tensor, "batch *shape"], t: Time, noise: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """x_t of x_0 under unit noise of its shape, both in data space; keeps x_0's dtype."""
        m = self.marginal(torch.as_tensor(t, dtype=torch.float64, device=x_0.device))
        alpha, sigma = m.alpha.to(x_0.dtype), m.sigma.to(x_0.dtype)
        return self.to_data(alpha * self.to_components(x_0) + sigma * self.basis.to_components(noise.to(x_0.dtype)))

    def prior_log_prob(self, u_T: Float[Tensor, "batch J dim"]) -> Float[Tensor, "batch"]:
        """log density of the terminal distribution at u_T, nats per row, in components."""
        terminal = self.terminal or GaussianTerminal(torch.zeros_like(self.scale), self.scale.square())
        if not isinstance(terminal, Density):
            raise ConfigError(f"{type(terminal).__name__} can be drawn from, but has no density")
        return terminal.log_prob(u_T[:, 0])

    def with_parameters(self, **parameters: float | int | Tensor) -> "SpectralProcess":
        """The same process with other schedule parameters: scalars, or `(batch, 1)` tensors answered row by row."""
        return replace(self, schedule=self.schedule.with_parameters(**parameters))

    def variance_preserving(self) -> "SpectralProcess":
        """This process with its components divided by sqrt(alpha^2 + sigma^2): the same noise levels, itself if it is.

        Raises:
            ConfigError: a level without noise, which has no such form.
        """
        if not isinstance(self.schedule, ExplicitSchedule):
            return self
        if self.is_degradation:
            raise ConfigError("a degradation has levels without noise: it has no density and no ODE")
        return replace(self, schedule=RescaledSchedule(self.schedule))

    @cached_property
    def _scale(self) -> Constant:
        return Constant(self.scale[None, :] if self.spec.prior == "data" else torch.ones(1, 1, dtype=torch.float64))

    @cached_property
    def _log_variance_white(self) -> Constant:
        if self.variances is None or self.spec.prior == "data":
            return Constant(torch.zeros(1, 1, dtype=torch.float64))
        return Constant(self.variances.log()[None, :])

    @cached_property
    def _shaped_centre(self) -> Constant:
        return Constant(self.centre.reshape(self.shape))


def as_times(t: Time) -> Float[Tensor, "n"]:
    """Times as `(n,)` float64: a float or 0-d tensor is one time."""
    times = torch.as_tensor(t, dtype=torch.float64)
    return times.reshape(1) if times.ndim == 0 else times
