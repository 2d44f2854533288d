"""Steps that take the predicted earlier level as it is: IHDM (Rissanen et al. 2023), sequential, variational cold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from pipeline.config import ConfigError, Spec
from pipeline.diffusion.kernels.base import Denoiser, Kernel, like_state, on_levels
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, SpectralProcess, diagonal


class PreviousSpec(Spec):
    """c_s = prediction of D(x_0, s) + delta z, with a network that predicts x_prev."""

    kind: Literal["previous"] = "previous"
    delta: NonNegativeFloat = 0.0  # fresh noise of every step but the last, on the [-1, 1] scale; IHDM: 1.25 sigma
    stride: PositiveInt = 1  # levels from s - stride + 1 are asked for, and degraded back to s

    def build(self) -> "Previous":
        return Previous(self.delta, self.stride)


@dataclass(frozen=True)
class Previous(Kernel):
    """c_s = D_a + delta z, where D_a is the prediction of the level a that `cond.time_to` asks for.

    With stride m the network is asked for the level a that lies m - 1 levels below s (at least the clean one), and
    c_s = c_t + (D_{a -> s} - D_{a -> t}) D_a with D_{a -> b} = alpha_b / alpha_a per component: exact for an exact
    prediction. Where a = s (stride 1, and the end of the path) D_a is taken itself.

    Attributes:
        delta: standard deviation of the fresh noise, absent in the last step, which returns the mean.
        stride: m; above 1 for diagonal processes with levels only.
    """

    delta: float = 0.0
    stride: int = 1

    levels_only: ClassVar[bool] = True

    @property
    def draws(self) -> Mapping[str, str]:
        return {"eps": "state"} if self.delta > 0 else {}

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def init(self, process: Process, u_T: Float[Tensor, "batch J dim"], times: Float[Tensor, " grid"]) -> Tensor:
        """The time at which the path ends.

        Raises:
            ConfigError: a time is no level of the process, or the process has no levels to stride over.
        """
        if self.stride > 1 and (process.num_levels is None or not isinstance(process, SpectralProcess)):
            raise ConfigError(f"stride {self.stride}: only a diagonal degradation with levels can be degraded further")
        return on_levels(process, times)[-1]

    def step(
        self,
        u_t: Float[Tensor, "batch J dim"],
        t: Tensor,
        s: Tensor,
        predictor: Denoiser,
        cond: Condition | None,
        noise: Mapping[str, Float[Tensor, "batch J dim"]],
        carry: Tensor,
        process: Process,
    ) -> tuple[Float[Tensor, "batch J dim"], Any]:
        c_t = u_t[:, 0]
        asked = self._asked(process, s)
        time_to = torch.full((len(c_t),), float(asked), dtype=torch.float64, device=c_t.device)
        stepped = predictor(u_t, t, replace(cond or Condition(), time_to=time_to)).x_prev
        if asked < s:
            diagonal_process = diagonal(process)
            moved = _ratio(diagonal_process, asked, s) - _ratio(diagonal_process, asked, t)
            stepped = c_t + like_state(moved, c_t) * stepped
        if self.delta > 0 and s > carry:
            stepped = stepped + self.delta * noise["eps"][:, 0]
        return stepped[:, None], carry

    def _asked(self, process: Process, s: Tensor) -> Tensor:
        """The time that the network is asked for, 0-d float64."""
        if self.stride == 1:
            return s
        num_levels = process.num_levels
        assert num_levels is not None
        level = torch.round(s * num_levels) - (self.stride - 1)
        return level.clamp(min=0.0) / num_levels


def _ratio(process: SpectralProcess, a: Tensor, b: Tensor) -> Tensor:
    """alpha_b / alpha_a, `(1, 1 | dim)`; 0 where nothing is left at a, and then nothing is left at b > a either."""
    earlier, later = process.marginal(a).alpha, process.marginal(b).alpha
    is_gone = earlier == 0
    return torch.where(is_gone, 0.0, later / torch.where(is_gone, 1.0, earlier))
