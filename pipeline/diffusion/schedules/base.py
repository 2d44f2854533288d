"""What a noise schedule answers, and what it is built from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.bases import Basis

S = TypeVar("S", bound="AnySchedule")


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """Noise level at n times, each field `(n, 1)` or `(n, dim)`, float64.

    Attributes:
        gamma: log(sigma^2 / alpha^2), before the scale s; -inf is allowed at t = 0.
        d_gamma: d gamma / dt; at a kink the value of the moving side.
        beta: sigmoid(gamma) d_gamma = -d log(alpha^2) / dt, finite also where gamma = -inf.
    """

    gamma: Tensor
    d_gamma: Tensor
    beta: Tensor


@dataclass(frozen=True, eq=False)
class ScheduleContext:
    """What a schedule may depend on besides its own settings.

    Attributes:
        shape: of one datum. dim: number of components. basis: with its labels.
        log_variances: log of the data variance per component, `(dim,)`, None without statistics.
        log_variances_white: the same after division by s^2.
    """

    shape: tuple[int, ...]
    dim: int
    basis: Basis
    log_variances_white: Tensor | None = None
    log_variances: Tensor | None = None


class AnySchedule:
    """What noise schedules and schedules of degradations have in common."""

    is_scalar: bool = True
    """One law for all components."""

    @property
    def num_levels(self) -> int | None:
        """T where the schedule is made of levels at t = k/T; None where it is given at all times."""
        return None

    @property
    def kinks(self) -> tuple[float, ...]:
        """Times in (0, 1), rising, where a derivative jumps."""
        return ()

    def with_parameters(self: S, **parameters: float | int | Tensor) -> S:
        """This schedule with other parameters: scalars, or `(n, 1)` tensors answered row by row.

        Raises:
            ConfigError: it has none that are free.
        """
        raise ConfigError(f"schedule has no free parameters, found {', '.join(sorted(parameters))}")


class Schedule(AnySchedule, ABC):
    """gamma(t) and its derivative for t in [0, 1]; gamma never falls with t."""

    def __call__(self, t: Float[Tensor, "n"]) -> NoiseLevel:
        """The noise level at times `t`, on t's device; refuses times like `checked_times`."""
        return self.level(checked_times(t))

    @abstractmethod
    def level(self, t: Float[Tensor, "n 1"]) -> NoiseLevel:
        """The noise level at valid float64 times."""


class ScheduleSpec(Spec):
    """Settings of a schedule, selected by `kind`."""

    def build(self, context: ScheduleContext) -> AnySchedule:
        """The schedule for the components described by `context`."""
        raise TypeError(f"{type(self).__name__} does not say how it is built")


def checked_times(t: Float[Tensor, "n"]) -> Float[Tensor, "n 1"]:
    """Times as a float64 column.

    Raises:
        ValueError: a time lies outside [0, 1] (not looked at on accelerators, where it would wait for the device).
    """
    t = t.to(torch.float64)
    if t.ndim != 1:
        raise ValueError(f"times must be (n,), found shape {tuple(t.shape)}")
    if t.device.type == "cpu" and not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError("times must lie in [0, 1]")
    return t[:, None]


def level_from(gamma: Tensor, d_gamma: Tensor) -> NoiseLevel:
    """A noise level whose gamma is finite: beta = sigmoid(gamma) d_gamma."""
    return NoiseLevel(gamma, d_gamma, torch.sigmoid(gamma) * d_gamma)
