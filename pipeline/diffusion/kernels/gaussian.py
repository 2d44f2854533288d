"""Gaussian reverse kernels: ancestral sampling (Ho et al. 2020) and DDIM (Song et al. 2021), per component."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline.config import Spec
from pipeline.diffusion.kernels.base import Denoiser, Kernel, like_state, with_idle_untouched
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process, SpectralProcess, diagonal


class AncestralSpec(Spec):
    """Draws from the posterior of x_s given x_t and the predicted x_0."""

    kind: Literal["ancestral"] = "ancestral"
    variance: Literal["small", "large"] = "small"  # posterior variance, or that of the forward transition

    def build(self) -> "Ancestral":
        return Ancestral(self.variance)


class DdimSpec(Spec):
    """DDIM; `eta` = 0 is deterministic, `eta` = 1 has the law of small-variance ancestral sampling."""

    kind: Literal["ddim"] = "ddim"
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    def build(self) -> "Ddim":
        return Ddim(self.eta)


@dataclass(frozen=True)
class Ancestral(Kernel):
    """u_s = E[u_s | u_t, x_0] + noise; every step adds noise, the last one of "large" excepted.

    With "small" the variance is the posterior's and vanishes by itself where sigma_s = 0. With "large" it is that of
    the forward transition (Ho et al. 2020, section 3.2), which does not vanish, so that the last step adds none, as in
    DDPM.
    """

    variance: Literal["small", "large"] = "small"

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
        c_t, process = u_t[:, 0], diagonal(process)
        of_state, of_data, variance = posterior_weights(process, s, t)
        if self.variance == "large":
            variance = process.transition(s, t)[1][:, 0, 0] if s > carry else torch.zeros_like(variance)
        stepped = like_state(of_state, c_t) * c_t + like_state(of_data, c_t) * predictor(u_t, t, cond).x_0
        stepped = stepped + like_state(variance.sqrt(), c_t) * noise["eps"][:, 0]
        return with_idle_untouched(stepped, c_t, process.marginal(t), process.marginal(s))[:, None], carry


def posterior_weights(process: SpectralProcess, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of c_t and of x_0 in the mean of `process.posterior`, and its variance; `(n, dim)` float64 on t's device.

    The mean is linear in both, so that the weights are its values at unit arguments: the state itself need not be
    float64, nor live where the times do.
    """
    one = torch.ones_like(process.marginal(t).sigma)
    of_state, covariance = process.posterior(one[:, None], 0 * one, s, t)
    of_data, _ = process.posterior(0 * one[:, None], one, s, t)
    return of_state[:, 0], of_data[:, 0], covariance[:, 0, 0]


@dataclass(frozen=True)
class Ddim(Kernel):
    """u_s = alpha_s x_0 + sqrt(sigma_s^2 - v) eps + sqrt(v) noise with v = eta^2 times the posterior variance.

    Song et al. 2021, eq. 12 and 16. In terms of gamma the posterior variance is sigma_s^2 (1 - e^(gamma_s - gamma_t)),
    which needs no difference of nearly equal numbers.
    """

    eta: float = 0.0

    @property
    def draws(self) -> Mapping[str, str]:
        return {"eps": "state"} if self.eta > 0 else {}

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
        c_t, process = u_t[:, 0], diagonal(process)
        at_t, at_s = process.marginal(t), process.marginal(s)
        exponent = at_s.gamma - at_t.gamma
        kept = at_s.sigma * torch.sqrt((1 - self.eta**2) + self.eta**2 * exponent.exp())
        prediction = predictor(u_t, t, cond)
        stepped = like_state(at_s.alpha, c_t) * prediction.x_0 + like_state(kept, c_t) * prediction.eps
        if self.eta > 0:
            fresh = self.eta * at_s.sigma * torch.sqrt(-torch.expm1(exponent))
            stepped = stepped + like_state(fresh, c_t) * noise["eps"][:, 0]
        return with_idle_untouched(stepped, c_t, at_t, at_s)[:, None], carry
