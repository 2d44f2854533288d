"""From a network to predictions: conditions, preconditioned inputs, and the Gaussian skip connection."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.diffusion.predictions import Prediction, Target
from pipeline.diffusion.processes import Marginal, Process

MAX_ABS_GAMMA = 40.0
"""Noise levels shown to a network are cut here: e^-40 is no noise (or no signal) in any dtype, and -inf gets finite."""


@dataclass(frozen=True)
class Condition:
    """What a prediction may depend on besides x_t and t; every field is optional.

    Attributes:
        label: class indices `(batch,)`, int64.
        image: conditioning image `(batch, channels, height, width)`.
        image_noise_level: noise level of `image` `(batch,)`.
        tokens: text or other tokens `(batch, length, ...)`.
        latent: latent code `(batch, d)`.
        time_to: second time of two-time predictors `(batch,)`.
        guidance_weight: guidance weight `(batch,)`.
    """

    label: Int[Tensor, " batch"] | None = None
    image: Tensor | None = None
    image_noise_level: Tensor | None = None
    tokens: Tensor | None = None
    latent: Tensor | None = None
    time_to: Tensor | None = None
    guidance_weight: Tensor | None = None


@dataclass(frozen=True)
class NetworkInputs:
    """Arguments of one network call.

    Attributes:
        x: preconditioned state in data space, `(batch, *shape)`, float32, about unit variance.
        t: time in [0, 1], `(batch,)`, float32.
        gamma: noise levels `(batch, 1 or dim)`, float32, cut to +-`MAX_ABS_GAMMA`.
        cond: condition, or None.
    """

    x: Tensor
    t: Float[Tensor, " batch"]
    gamma: Float[Tensor, "batch levels"]
    cond: Condition | None = None


class Precondition:
    """Unit-variance network inputs, and predictions with the Gaussian optimum of the data as skip connection.

    With data variances Sigma and means m per component, v = alpha^2 Sigma + sigma^2: the network's output n (unit
    variance on Gaussian data) enters as eps = sigma (c_t - alpha m)/v + alpha sqrt(Sigma/v) n: Karras et al. 2022's
    c_skip and c_out per component. It sees (c_t - alpha m)/sqrt(mean v), one c_in for all components: dividing each by
    its own deviation would raise components that are nothing but noise to the size of the others, and in the PCA basis
    networks then learn several times more slowly.
    Other targets are this function written in the target, so an output of zero is the exact predictor of
    N(m, Sigma) for each of them. Without data statistics Sigma = 1, m = 0.

    Args:
        process: forward process with J = 1.
        prediction: native target: "eps", "x0", "v" or "score".
    """

    def __init__(self, process: Process, prediction: Target) -> None:
        self.process = process
        self.target: Target = prediction

    def inputs(
        self, u_t: Float[Tensor, "batch J dim"], t: Tensor | float, cond: Condition | None = None
    ) -> NetworkInputs:
        """What the network is shown for the state `u_t` at time t (a number, 0-d or `(batch,)`)."""
        c_t = u_t[:, 0]
        marginal = _marginal_beside(c_t, self.process, t)
        mean, _, total = self._moments(marginal)
        unit = (c_t - _like(marginal.alpha * mean, c_t)) * _like(total.mean(dim=1, keepdim=True).rsqrt(), c_t)
        gamma = marginal.gamma.clamp(-MAX_ABS_GAMMA, MAX_ABS_GAMMA)
        return NetworkInputs(
            x=self.process.basis.to_data(unit).float(),
            t=torch.as_tensor(t, dtype=torch.float32, device=c_t.device).expand(len(c_t)),
            gamma=gamma.to(device=c_t.device, dtype=torch.float32).expand(len(c_t), -1),
            cond=cond,
        )

    def prediction(
        self, u_t: Float[Tensor, "batch J dim"], t: Tensor | float, output: Float[Tensor, "batch *shape"]
    ) -> Prediction:
        """The prediction that the network output `output` (data space) means; its value has the dtype of `u_t`."""
        c_t = u_t[:, 0]
        marginal = _marginal_beside(c_t, self.process, t)
        mean, variances, total = self._moments(marginal)
        alpha, sigma, scale = marginal.alpha, marginal.sigma, marginal.scale
        gain = torch.sqrt(variances / total)
        offset = torch.zeros_like(mean)
        if self.target == "eps":
            skip, out = sigma / total, alpha * gain
        elif self.target == "x0":
            skip, offset, out = alpha * variances / total, mean, -sigma * gain
        elif self.target == "v":
            noise_share = torch.sqrt(torch.sigmoid(marginal.gamma))
            skip, out = alpha * noise_share * (scale - variances / scale) / total, gain
            offset = -noise_share * mean / scale
        else:  # score = -eps / sigma; without noise only the Gaussian part is defined
            skip, out = -1 / total, torch.where(sigma > 0, -alpha * gain / sigma, 0.0)
        residual = self.process.basis.to_components(output.to(c_t.dtype))
        centred = c_t - _like(alpha * mean, c_t)
        value = _like(skip, c_t) * centred + _like(offset, c_t) + _like(out, c_t) * residual
        return Prediction(self.target, value, c_t, marginal)

    def _moments(self, marginal: Marginal) -> tuple[Tensor, Tensor, Tensor]:
        """m, Sigma and v = alpha^2 Sigma + sigma^2, float64, broadcastable to `(n, dim)`."""
        device = marginal.gamma.device
        mean = self.process.mean_components.to(device)
        variances = torch.ones_like(mean) if self.process.variances is None else self.process.variances.to(device)
        return mean, variances, marginal.alpha**2 * variances + marginal.sigma**2


class Predictor:
    """A network with its preconditioning: `predictor(u_t, t, cond) -> Prediction`.

    Differentiable in `u_t`; the caller decides about gradients, evaluation mode and devices.

    Args:
        network: called as `network(x, t, gamma, cond) -> (batch, *shape)`, float32.
        process: forward process with J = 1.
        prediction: native target: "eps", "x0", "v" or "score".
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Tensor, Condition | None], Tensor],
        process: Process,
        prediction: Target,
    ) -> None:
        self.network = network
        self.process = process
        self.precondition = Precondition(process, prediction)

    def __call__(
        self, u_t: Float[Tensor, "batch J dim"], t: Tensor | float, cond: Condition | None = None
    ) -> Prediction:
        given = self.precondition.inputs(u_t, t, cond)
        output = self.network(given.x, given.t, given.gamma, given.cond)
        return self.precondition.prediction(u_t, t, output)


def _marginal_beside(state: Tensor, process: Process, t: Tensor | float) -> Marginal:
    """The marginal at `t`, computed where `t` is and then moved to the state: a path's times stay on the host."""
    marginal = process.marginal(t)
    if marginal.gamma.device == state.device:
        return marginal
    return Marginal(**{field.name: getattr(marginal, field.name).to(state.device) for field in fields(marginal)})


def _like(coefficient: Tensor, state: Tensor) -> Tensor:
    return coefficient.to(device=state.device, dtype=state.dtype)
