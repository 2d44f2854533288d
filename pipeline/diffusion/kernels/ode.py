"""Fixed-step solvers of the probability-flow ODE in t: Euler and Heun, per component (Song et al. 2021, eq. 13)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Spec
from pipeline.diffusion.kernels.base import Denoiser, Kernel, like_state, with_idle_untouched
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import AnyMarginal, Process, diagonal


class EulerSpec(Spec):
    """Euler steps of the probability-flow ODE in t; order 1."""

    kind: Literal["euler"] = "euler"

    def build(self) -> "Euler":
        return Euler()


class HeunSpec(Spec):
    """Heun steps (trapezoid with one predictor) of the probability-flow ODE in t; order 2, two evaluations a step."""

    kind: Literal["heun"] = "heun"

    def build(self) -> "Heun":
        return Heun()


def pf_velocity(prediction: Prediction, marginal: AnyMarginal) -> Float[Tensor, "batch dim"]:
    """dc/dt = alpha' x_0 + sigma' eps of the probability-flow ODE, forward in time, in components.

    Equal to -beta/2 (c + s^2 score) with beta = sigmoid(gamma) d_gamma, but without the division by sigma that
    loses the score near t = 0. Components that are at rest have velocity 0. Not defined where gamma = -inf.
    """
    x_0, eps = prediction.x_0, prediction.eps
    return like_state(marginal.alpha_rate, x_0) * x_0 + like_state(marginal.sigma_rate, eps) * eps


@dataclass(frozen=True)
class Euler(Kernel):
    """c_s = c_t + (s - t) dc/dt(t)."""

    @property
    def draws(self) -> Mapping[str, str]:
        return {}

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
        stepped = c_t + float(s - t) * pf_velocity(predictor(u_t, t, cond), at_t)
        return with_idle_untouched(stepped, c_t, at_t, process.marginal(s))[:, None], carry


@dataclass(frozen=True)
class Heun(Kernel):
    """c_s = c_t + (s - t)/2 (dc/dt(t) + dc/dt(s at the Euler point)).

    Where gamma_s = -inf (a clean end at t = 0) the velocity at s is not defined and the component keeps the Euler
    point, as in Karras et al. 2022, algorithm 1; the evaluation is made all the same, so that `nfe` is exact.
    """

    @property
    def draws(self) -> Mapping[str, str]:
        return {}

    def nfe(self, num_steps: int) -> int:
        return 2 * num_steps

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
        c_t, at_t, at_s = u_t[:, 0], process.marginal(t), process.marginal(s)
        duration = float(s - t)
        velocity_t = pf_velocity(predictor(u_t, t, cond), at_t)
        euler = with_idle_untouched(c_t + duration * velocity_t, c_t, at_t, at_s)
        velocity_s = pf_velocity(predictor(euler[:, None], s, cond), at_s)
        is_clean = torch.isneginf(at_s.gamma).to(c_t.device)
        stepped = torch.where(is_clean, euler, c_t + 0.5 * duration * (velocity_t + velocity_s))
        return with_idle_untouched(stepped, c_t, at_t, at_s)[:, None], carry
