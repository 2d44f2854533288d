"""From a network to predictions: conditions, preconditioned inputs, and the Gaussian skip connection."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.predictions import Prediction, Target
from pipeline.diffusion.processes import AnyMarginal, Process, SpectralProcess
from pipeline.diffusion.schedules import ExplicitSchedule

NOISE_FLOOR = 0.1
"""Noise that preconditioning assumes on the levels of a degradation, in data units (the range is 2).

Without noise the Gaussian optimum divides by alpha, and its residual is 0: nothing would be left to learn.
"""

_LEVEL_ROUNDING = 1e-4  # of a level; what a time loses as float32

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
    N(m, Sigma) for each of them: x_0 = alpha Sigma/v (c_t - alpha m) + m - sigma sqrt(Sigma/v) n, and D(x_0, s) is
    alpha_s times that. Without data statistics Sigma = 1, m = 0. On the levels of a degradation sigma^2 holds
    `NOISE_FLOOR`^2; where the degradation is not diagonal the skip connection is the state itself.

    Args:
        process: forward process with J = 1.
        prediction: native target: "eps", "x0", "v", "score", or "x_prev" where the process has levels.
    """

    def __init__(self, process: Process, prediction: Target) -> None:
        if prediction == "x_prev" and not process.is_degradation:
            raise ConfigError("prediction x_prev needs the levels of a degradation")
        if prediction not in ("x0", "x_prev") and process.is_degradation:
            raise ConfigError(f"prediction {prediction} needs noise; a degradation goes with x0 or x_prev")
        if prediction == "v" and isinstance(getattr(process, "schedule", None), ExplicitSchedule):
            raise ConfigError("prediction v needs a schedule that preserves variance; use eps or x0")
        self.process = process
        self.target: Target = prediction
        self._floor = NOISE_FLOOR**2 if process.is_degradation else 0.0

    def inputs(
        self, u_t: Float[Tensor, "batch J dim"], t: Tensor | float, cond: Condition | None = None
    ) -> NetworkInputs:
        """What the network is shown for the state `u_t` at time t (a number, 0-d or `(batch,)`).

        For x_prev its condition says the earlier time, one level below t unless `cond` names another.
        """
        c_t, process = u_t[:, 0], self.process
        if isinstance(process, SpectralProcess):
            marginal = _marginal_beside(c_t, process, t)
            mean, _, noise, total = self._moments(marginal)
            centre, gamma = marginal.alpha * mean, marginal.gamma
            if self._floor:
                gamma = torch.log(noise) - marginal.log_alpha2
        else:
            mean, variances = self._data(c_t.device)
            centre, gamma, total = mean, torch.zeros(1, 1, device=c_t.device), variances[None] + self._floor
        unit = (c_t - _like(centre, c_t)) * _like(total.mean(dim=1, keepdim=True).rsqrt(), c_t)
        gamma = gamma.clamp(-MAX_ABS_GAMMA, MAX_ABS_GAMMA)
        times = torch.as_tensor(t, dtype=torch.float32, device=c_t.device).expand(len(c_t))
        if self.target == "x_prev":
            cond = replace(cond or Condition(), time_to=self._time_to(c_t, t, cond).float())
        return NetworkInputs(
            x=self.process.basis.to_data(unit).float(),
            t=times,
            gamma=gamma.to(device=c_t.device, dtype=torch.float32).expand(len(c_t), -1),
            cond=cond,
        )

    def prediction(
        self,
        u_t: Float[Tensor, "batch J dim"],
        t: Tensor | float,
        output: Float[Tensor, "batch *shape"],
        cond: Condition | None = None,
    ) -> Prediction:
        """The prediction that the network output `output` (data space) means; its value has the dtype of `u_t`.

        `cond` is that of `inputs`; only its `time_to` is read, and only for x_prev.
        """
        c_t, process = u_t[:, 0], self.process
        residual = process.basis.to_components(output.to(c_t.dtype))
        if not isinstance(process, SpectralProcess):
            variances = self._data(c_t.device)[1]
            return Prediction(self.target, c_t + _like(variances.mean().sqrt(), c_t) * residual, c_t, None)
        marginal = _marginal_beside(c_t, process, t)
        mean, variances, noise, total = self._moments(marginal)
        alpha, sigma, scale = marginal.alpha, marginal.sigma, marginal.scale
        gain = torch.sqrt(variances / total)
        offset = torch.zeros_like(mean)
        earlier = None
        if self.target == "eps":
            skip, out = sigma / total, alpha * gain
        elif self.target == "v":
            noise_share = torch.sqrt(torch.sigmoid(marginal.gamma))
            skip, out = alpha * noise_share * (scale - variances / scale) / total, gain
            offset = -noise_share * mean / scale
        elif self.target == "score":  # -eps / sigma; without noise only the Gaussian part is defined
            skip, out = -1 / total, torch.where(sigma > 0, -alpha * gain / sigma, 0.0)
        else:
            skip, offset, out = alpha * variances / total, mean, -noise.sqrt() * gain
            if self.target == "x_prev":
                earlier = _marginal_beside(c_t, process, self._time_to(c_t, t, cond))
                skip, offset, out = (earlier.alpha * part for part in (skip, offset, out))
        centred = c_t - _like(alpha * mean, c_t)
        value = _like(skip, c_t) * centred + _like(offset, c_t) + _like(out, c_t) * residual
        return Prediction(self.target, value, c_t, marginal, earlier)

    def _time_to(self, c_t: Tensor, t: Tensor | float, cond: Condition | None) -> Float[Tensor, " batch"]:
        """The earlier time of an x_prev, float64; levels stay levels through float32."""
        assert self.process.num_levels is not None
        if cond is None or cond.time_to is None:
            level = torch.as_tensor(t, dtype=torch.float64, device=c_t.device) * self.process.num_levels - 1
        else:
            level = cond.time_to.to(device=c_t.device, dtype=torch.float64) * self.process.num_levels
        nearest = level.round()
        level = torch.where((level - nearest).abs() < _LEVEL_ROUNDING, nearest, level).clamp(min=0.0)
        return (level / self.process.num_levels).expand(len(c_t))

    def _moments(self, marginal: AnyMarginal) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m, Sigma, the noise variance and v = alpha^2 Sigma + noise, float64, broadcastable to `(n, dim)`."""
        mean, variances = self._data(marginal.alpha.device)
        noise = marginal.sigma**2 + self._floor
        return mean, variances, noise, marginal.alpha**2 * variances + noise

    def _data(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = self.process.mean_components.to(device)
        variances = torch.ones_like(mean) if self.process.variances is None else self.process.variances.to(device)
        return mean, variances


class Predictor:
    """A network with its preconditioning: `predictor(u_t, t, cond) -> Prediction`.

    Differentiable in `u_t`; the caller decides about gradients, evaluation mode and devices.

    Args:
        network: called as `network(x, t, gamma, cond) -> (batch, *shape)`, float32.
        process: forward process with J = 1.
        prediction: native target, see `Precondition`.
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

    def under(self, process: Process) -> "Predictor":
        """The same network under another schedule: what it needs to know of one is the noise state gamma(t).

        Whether it does know is a matter of its training; an exact or an amortised network does, inside its box.

        Raises:
            ConfigError: the process has another basis, prior, centre or shape, so that gamma means something else.
        """
        for name in ("basis", "prior", "centre"):
            own, other = (getattr(of.spec, name, None) for of in (self.process, process))
            if own != other:
                raise ConfigError(
                    f"a schedule is swapped on one {name}: the network is of {own}, the process of {other}"
                )
        if tuple(self.process.shape) != tuple(process.shape):
            raise ConfigError(f"the network is for data of shape {self.process.shape}, the process for {process.shape}")
        return Predictor(self.network, process, self.precondition.target)

    def __call__(
        self, u_t: Float[Tensor, "batch J dim"], t: Tensor | float, cond: Condition | None = None
    ) -> Prediction:
        given = self.precondition.inputs(u_t, t, cond)
        output = self.network(given.x, given.t, given.gamma, given.cond)
        return self.precondition.prediction(u_t, t, output, given.cond)


def _marginal_beside(state: Tensor, process: SpectralProcess, t: Tensor | float) -> AnyMarginal:
    """The marginal at `t`, computed where `t` is and then moved to the state: a path's times stay on the host."""
    return process.marginal(t).to(state.device)


def _like(coefficient: Tensor, state: Tensor) -> Tensor:
    return coefficient.to(device=state.device, dtype=state.dtype)
