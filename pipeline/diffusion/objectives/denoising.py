"""Denoising: regression of a prediction's target, or the likelihood bound. Ho 2020; Kingma 2021; Salimans & Ho 2022."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from pipeline.config import ConfigError, neutral
from pipeline.diffusion.objectives.amortise import AmortiseSpec, check_family
from pipeline.diffusion.objectives.base import Batch, Draws, Metrics, Objective, ObjectiveSpec, Phase, PhaseInputs
from pipeline.diffusion.predictor import Condition, Precondition
from pipeline.diffusion.processes import AnyMarginal, diagonal


class DenoisingSpec(ObjectiveSpec):
    """Loss in the space of the prediction, averaged over components and weighted.

    Attributes:
        loss: penalty of one component's error d: d^2, |d|, or Huber's.
        weighting: `uniform`: the plain mean. `likelihood`: 0.5 * gamma'_i(t) * (eps error)^2 per component, whose mean
            over t is the diffusion term of the negative ELBO in nats per dimension, whatever the prediction is.
            `snr_truncated`: max(mean penalty of x_0 / s, mean penalty of eps) per example, Salimans & Ho 2022: for mse
            that is max(SNR, 1) times the x_0 error where all components share one noise level.
        t_min: smallest training time where gamma(0) is infinite (else 0); likelihood weights grow as 1 / t there.
        huber_delta: where Huber's penalty turns from quadratic to linear.
        label_dropout: share of examples whose label is hidden, for guidance without a classifier.
        amortise: ranges of schedule parameters drawn per example; null trains for the one schedule of the process.
            `uniform` does not weight the draws by gamma', `likelihood` does.
    """

    kind: Literal["denoising"] = "denoising"
    loss: Literal["mse", "huber", "l1"] = "mse"
    weighting: Literal["uniform", "likelihood", "snr_truncated"] = "uniform"
    t_min: float = Field(1e-5, gt=0.0, lt=1.0)
    huber_delta: PositiveFloat = 1.0
    label_dropout: float = neutral(0.0, ge=0.0, le=1.0)
    amortise: AmortiseSpec | None = neutral(None)

    @model_validator(mode="after")
    def _bound_needs_squares(self) -> "DenoisingSpec":
        if self.weighting == "likelihood" and self.loss != "mse":
            raise ValueError(f"weighting: likelihood is a bound for loss: mse only, found loss: {self.loss}")
        return self

    def build(self, precondition: Precondition | None = None) -> "Denoising":
        if precondition is None:
            raise ConfigError("objective: denoising needs a process; classification is the one without")
        return Denoising(self, precondition)


@dataclass(frozen=True, kw_only=True)
class DenoisingInputs(PhaseInputs):
    """State and truth in components: u_t `(batch, 1, dim)`, c_0 and eps `(batch, dim)`, t `(batch,)` float64."""

    u_t: Tensor
    t: Tensor
    c_0: Tensor
    eps: Tensor
    marginal: AnyMarginal
    precondition: Precondition


Penalty = Callable[[Tensor], Tensor]


class Denoising(Objective):
    """One network, one phase; no coupling between the examples of a batch."""

    def __init__(self, spec: DenoisingSpec, precondition: Precondition) -> None:
        if precondition.process.is_degradation:
            raise ConfigError("objective: denoising needs noise at every level; a degradation takes cold or sequential")
        self.spec = spec
        self.precondition = precondition
        self.process = diagonal(precondition.process)
        if spec.amortise is not None:
            check_family(self.process.schedule)
        starts_finite = bool(torch.isfinite(self.process.marginal(0.0).gamma).all())
        self.t_min = 0.0 if starts_finite else spec.t_min
        self._phase = Phase(optimiser=self.network, network=self.network, inputs=self.inputs, loss=self.loss)

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (self._phase,)

    def inputs(self, batch: Batch, draws: Draws) -> DenoisingInputs:
        """Corrupts the batch at low-discrepancy times in [t_min, 1)."""
        t = self.t_min + (1.0 - self.t_min) * draws.times("t")
        noise = draws.normal("eps", batch.x_0.shape[1:])
        precondition = self.precondition
        if self.spec.amortise is not None:
            drawn = self.process.with_parameters(**self.spec.amortise.draw(draws))
            precondition = Precondition(drawn, precondition.target)
        process = diagonal(precondition.process)
        c_0 = process.to_components(batch.x_0)
        eps = process.basis.to_components(noise)
        marginal = process.marginal(t)
        u_t = torch.addcmul(marginal.alpha.to(c_0) * c_0, marginal.sigma.to(c_0), eps).unsqueeze(1)
        network = precondition.inputs(u_t, t, self._condition(batch, draws))
        return DenoisingInputs(
            network=network, u_t=u_t, t=t, c_0=c_0, eps=eps, marginal=marginal, precondition=precondition
        )

    def loss(self, inputs: PhaseInputs, output: Tensor) -> tuple[Float[Tensor, " batch"], Metrics]:
        """Loss per example, float32, and the plain eps error as metric `eps_mse`."""
        assert isinstance(inputs, DenoisingInputs)
        prediction = inputs.precondition.prediction(inputs.u_t, inputs.t, output.float())
        marginal = inputs.marginal
        error = prediction.value - self._truth(inputs)
        eps_error = self._eps_error(error, marginal)
        squared = eps_error.square()
        metrics = {"eps_mse": squared.detach().mean(1)}
        if self.spec.weighting == "likelihood":
            return (squared * (0.5 * marginal.d_gamma).to(squared)).mean(1).float(), metrics
        if self.spec.weighting == "snr_truncated":
            white_error = eps_error * torch.exp(0.5 * marginal.gamma).to(error)
            losses = (self._penalty(white_error).mean(1), self._penalty(eps_error).mean(1))
            return torch.maximum(*losses).float(), metrics
        return self._penalty(error).mean(1).float(), metrics

    def _condition(self, batch: Batch, draws: Draws) -> Condition | None:
        if batch.label is None:
            return None
        label = batch.label
        if self.spec.label_dropout > 0:
            label = torch.where(draws.uniform("label_dropout", ()) < self.spec.label_dropout, -1, label)
        return Condition(label=label)

    def _penalty(self, error: Tensor) -> Tensor:
        if self.spec.loss == "mse":
            return error.square()
        if self.spec.loss == "l1":
            return error.abs()
        delta = self.spec.huber_delta
        return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)

    def _truth(self, inputs: DenoisingInputs) -> Tensor:
        """The target `(batch, dim)` for known c_0 and eps."""
        marginal, c_0, eps = inputs.marginal, inputs.c_0, inputs.eps
        match self.precondition.target:
            case "eps":
                return eps
            case "x0":
                return c_0
            case "score":
                return -eps / marginal.sigma.to(eps)
            case _:  # v
                return marginal.alpha.to(eps) * eps - (marginal.sigma / marginal.scale**2).to(eps) * c_0

    def _eps_error(self, error: Tensor, marginal: AnyMarginal) -> Tensor:
        """The error of eps that an error of the target means at fixed c_t, up to its sign.

        From eps = (c_t - alpha x_0) / sigma, score = -eps / sigma, and v = alpha eps - (sigma / s) (x_0 / s), whose
        error is that of eps times alpha + (sigma / s)^2 / alpha = 1 / alpha.
        """
        match self.precondition.target:
            case "eps":
                return error
            case "x0":
                return error * (marginal.alpha / marginal.sigma).to(error)
            case "score":
                return error * marginal.sigma.to(error)
            case _:  # v
                return error * marginal.alpha.to(error)
