"""What a reverse kernel is: one step of a state from time t back to time s < t."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import AnyMarginal, Process, is_still

Denoiser = Callable[[Tensor, Tensor, Condition | None], Prediction]
"""`(u_t (batch, J, dim), t, cond) -> Prediction`: a network behind a `Predictor`, or an oracle."""


LEVEL_TOLERANCE = 1e-6
"""How far from a level a time may lie, in levels."""


class Kernel(ABC):
    """A stateless reverse step; what must be remembered between steps travels as `carry`."""

    levels_only: ClassVar[bool] = False
    """Times lie on the levels of the process, and a path ends in its state: no level is left to denoise from."""

    @property
    @abstractmethod
    def draws(self) -> Mapping[str, str]:
        """Noise needed per step, by name; the value says its shape ("state": like x_t, drawn in data space)."""

    @abstractmethod
    def nfe(self, num_steps: int) -> int:
        """Predictor evaluations (per example) of a whole path of `num_steps` steps."""

    def init(self, process: Process, u_T: Float[Tensor, "batch J dim"], times: Float[Tensor, " grid"]) -> Any:
        """What the first step receives as `carry`: here the time at which the path ends."""
        return times[-1]

    @abstractmethod
    def step(
        self,
        u_t: Float[Tensor, "batch J dim"],
        t: Tensor,
        s: Tensor,
        predictor: Denoiser,
        cond: Condition | None,
        noise: Mapping[str, Float[Tensor, "batch J dim"]],
        carry: Any,
        process: Process,
    ) -> tuple[Float[Tensor, "batch J dim"], Any]:
        """The state at s < t and the next `carry`.

        Args:
            u_t: state in components.
            t: present time, 0-d float64.
            s: next time, 0-d float64, smaller than t.
            predictor: called with `(u_t, t, cond)`, as often as `nfe` says.
            cond: condition of this step.
            noise: unit normal noise in components for every name in `draws`.
            carry: what `init` or the previous step returned.
            process: forward process.
        """


def on_levels(process: Process, times: Float[Tensor, " grid"]) -> Float[Tensor, " grid"]:
    """`times`, if each is a level k/T of the process; a process without levels has them all.

    Raises:
        ConfigError: a time lies between two levels.
    """
    num_levels = process.num_levels
    if num_levels is not None:
        levels = times * num_levels
        off = (levels - levels.round()).abs()
        if bool((off > LEVEL_TOLERANCE).any()):
            between = float(times[off.argmax()])
            raise ConfigError(
                f"t = {between:g} lies between the {num_levels} levels of the process; "
                f"choose a number of steps that divides {num_levels}"
            )
    return times


def like_state(coefficient: Tensor, state: Tensor) -> Tensor:
    """A float64 coefficient `(1, 1 or dim)` in the dtype and on the device of the state it multiplies."""
    return coefficient.to(device=state.device, dtype=state.dtype)


def with_idle_untouched(
    stepped: Float[Tensor, "batch dim"], c_t: Float[Tensor, "batch dim"], at_t: AnyMarginal, at_s: AnyMarginal
) -> Float[Tensor, "batch dim"]:
    """`stepped`, except where a component's law does not change between t and s: there exactly `c_t`."""
    return torch.where(is_still(at_s, at_t).to(c_t.device), c_t, stepped)
