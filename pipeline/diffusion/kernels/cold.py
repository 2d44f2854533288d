"""Cold diffusion's reverse steps (Bansal et al. 2023): degrade the predicted image to the next level, per component."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from pipeline.config import Spec
from pipeline.diffusion.kernels.base import Denoiser, Kernel, like_state, on_levels
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, diagonal


class ColdSpec(Spec):
    """c_s = D(x_0, s) + rho (c_t - D(x_0, t)) + tau z; rho = 0 is Algorithm 1, rho = 1 Algorithm 2 (TACoS)."""

    kind: Literal["cold"] = "cold"
    rho: float = 1.0  # share of the state's deviation from the degraded prediction that is kept
    tau: NonNegativeFloat = 0.0  # fresh noise of every step but the last, on the [-1, 1] scale
    noise: Literal["residual", "start"] = "residual"  # removed with the deviation, or the noise of x_T in equal parts

    def build(self) -> "Cold":
        return Cold(self.rho, self.tau, self.noise)


@dataclass(frozen=True)
class Cold(Kernel):
    """c_s = D(x_0, s) + rho (c_t - D(x_0, t)) + tau z with x_0 as predicted at (c_t, t).

    Bansal et al. 2023: Algorithm 1 is rho = 0, Algorithm 2 is rho = 1. Where the level itself has noise, the deviation
    c_t - D(x_0, t) holds it, and it must shrink from sigma_t to sigma_s:

    - "residual": the deviation is multiplied by sigma_s / sigma_t (1 without noise at t). On a noise process this is
      DDIM; on levels of constant noise it is Algorithm 2, whose last step returns x_0.
    - "start": (sigma_t - sigma_s) z_T is taken away instead, with the unit noise z_T frozen that x_T was drawn from:
      "fixed noise" of the published code. It says something only where D(x_0, 1) is the centre.

    Attributes:
        rho: as above. tau: standard deviation of the fresh noise, absent in the last step. noise: as above.
    """

    rho: float = 1.0
    tau: float = 0.0
    noise: Literal["residual", "start"] = "residual"

    levels_only: ClassVar[bool] = True

    @property
    def draws(self) -> Mapping[str, str]:
        return {"eps": "state"} if self.tau > 0 else {}

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def init(
        self, process: Process, u_T: Float[Tensor, "batch J dim"], times: Float[Tensor, " grid"]
    ) -> tuple[Tensor, Tensor | None]:
        """The time at which the path ends, and z_T where it is needed.

        Raises:
            ConfigError: a time is no level of the process.
        """
        last = on_levels(process, times)[-1]
        if self.noise == "residual":
            return last, None
        spread = process.sigma(times[0]) if process.is_degradation else diagonal(process).scale[None]
        return last, _quotient(u_T[:, 0], spread)

    def step(
        self,
        u_t: Float[Tensor, "batch J dim"],
        t: Tensor,
        s: Tensor,
        predictor: Denoiser,
        cond: Condition | None,
        noise: Mapping[str, Float[Tensor, "batch J dim"]],
        carry: tuple[Tensor, Tensor | None],
        process: Process,
    ) -> tuple[Float[Tensor, "batch J dim"], Any]:
        c_t, (last, z_T) = u_t[:, 0], carry
        x_0 = predictor(u_t, t, cond).x_0
        stepped = process.degrade(x_0, s)
        if self.rho != 0.0:
            kept = c_t - process.degrade(x_0, t)
            sigma_t, sigma_s = process.sigma(t), process.sigma(s)
            if z_T is not None:
                kept = kept - like_state(sigma_t - sigma_s, c_t) * z_T
            else:
                share = torch.where(sigma_t > 0, sigma_s / torch.where(sigma_t > 0, sigma_t, 1.0), 1.0)
                kept = like_state(share, c_t) * kept
            stepped = stepped + self.rho * kept
        if self.tau > 0 and s > last:
            stepped = stepped + self.tau * noise["eps"][:, 0]
        return stepped[:, None], carry


def _quotient(state: Tensor, sigma: Tensor) -> Tensor:
    """state / sigma, 0 where there is no noise."""
    inverse = torch.where(sigma > 0, 1.0 / torch.where(sigma > 0, sigma, 1.0), 0.0)
    return like_state(inverse, state) * state
