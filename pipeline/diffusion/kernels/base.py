"""What a reverse kernel is: one step of a state from time t back to time s < t."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Marginal, Process

Denoiser = Callable[[Tensor, Tensor, Condition | None], Prediction]
"""`(u_t (batch, J, dim), t, cond) -> Prediction`: a network behind a `Predictor`, or an oracle."""


class Kernel(ABC):
    """A stateless reverse step; what must be remembered between steps travels as `carry`."""

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


def like_state(coefficient: Tensor, state: Tensor) -> Tensor:
    """A float64 coefficient `(1, 1 or dim)` in the dtype and on the device of the state it multiplies."""
    return coefficient.to(device=state.device, dtype=state.dtype)


def with_idle_untouched(
    stepped: Float[Tensor, "batch dim"], c_t: Float[Tensor, "batch dim"], at_t: Marginal, at_s: Marginal
) -> Float[Tensor, "batch dim"]:
    """`stepped`, except where a component's noise level does not change between t and s: there exactly `c_t`."""
    return torch.where((at_t.gamma == at_s.gamma).to(c_t.device), c_t, stepped)
