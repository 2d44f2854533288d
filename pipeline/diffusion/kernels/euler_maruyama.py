"""Euler-Maruyama steps of the reverse-time SDE (Song et al. 2021, eq. 6), per component."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from pipeline.config import Spec
from pipeline.diffusion.kernels.base import Denoiser, Kernel, like_state, with_idle_untouched
from pipeline.diffusion.kernels.ode import pf_velocity
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, diagonal


class EulerMaruyamaSpec(Spec):
    """Euler-Maruyama steps of the reverse-time SDE in t; every step adds noise, the last one too."""

    kind: Literal["euler_maruyama"] = "euler_maruyama"

    def build(self) -> "EulerMaruyama":
        return EulerMaruyama()


@dataclass(frozen=True)
class EulerMaruyama(Kernel):
    """dc = (A c - G^2 score) dt + G dW with A and G of the forward SDE, written as twice the ODE velocity less A c."""

    @property
    def draws(self) -> Mapping[str, str]:
        return {"eps": "state"}

    def nfe(self, num_steps: int) -> int:
        return num_steps

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
        process = diagonal(process)
        c_t, at_t = u_t[:, 0], process.marginal(t)
        duration = float(t - s)
        A, G = (part[:, 0, 0] for part in process.drift(t))
        drift = 2 * pf_velocity(predictor(u_t, t, cond), at_t) - like_state(A, c_t) * c_t
        stepped = c_t - duration * drift + like_state(G * duration**0.5, c_t) * noise["eps"][:, 0]
        return with_idle_untouched(stepped, c_t, at_t, process.marginal(s))[:, None], carry
