"""What the objectives share that learn on the levels t = k/T of a degradation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config import ConfigError, neutral
from pipeline.diffusion.objectives.base import Batch, Draws, Objective, ObjectiveSpec, PhaseInputs
from pipeline.diffusion.predictions import Target
from pipeline.diffusion.predictor import Precondition


class LevelledSpec(ObjectiveSpec):
    """Base of the specifications.

    Attributes:
        label_dropout: share of examples whose label is hidden, for guidance without a classifier.
    """

    label_dropout: float = neutral(0.0, ge=0.0, le=1.0)


@dataclass(frozen=True, kw_only=True)
class LevelInputs(PhaseInputs):
    """The clean point of prediction u_t `(batch, 1, dim)`, its time t `(batch,)`, and what is right, `(batch, dim)`."""

    u_t: Tensor
    t: Tensor
    truth: Tensor


class Levelled(Objective):
    """One phase whose prediction in components is compared with `truth`.

    Args:
        spec: its options.
        precondition: of the process and the prediction.
        target: the only prediction that the objective is defined for.

    Raises:
        ConfigError: another prediction, or a process without levels.
    """

    def __init__(self, spec: LevelledSpec, precondition: Precondition | None, target: Target) -> None:
        kind = getattr(spec, "kind", "")
        if precondition is None:
            raise ConfigError(f"objective: {kind} needs a process; classification is the one without")
        if precondition.target != target:
            raise ConfigError(f"objective: {kind} learns prediction {target}, found {precondition.target}")
        num_levels = precondition.process.num_levels
        if num_levels is None:
            raise ConfigError(f"objective: {kind} needs a process with levels; denoising is for processes without")
        self.precondition = precondition
        self.process = precondition.process
        self.num_levels = num_levels
        self._label_dropout = spec.label_dropout
        levels = torch.arange(1, num_levels + 1, dtype=torch.float64) / num_levels
        self._has_noise = bool((self.process.sigma(levels) > 0).any())

    def condition_label(self, batch: Batch, draws: Draws) -> Int[Tensor, " batch"] | None:
        """The labels that the network is told, -1 where they are hidden; None without labels."""
        if batch.label is None or self._label_dropout == 0:
            return batch.label
        return torch.where(draws.uniform("label_dropout", ()) < self._label_dropout, -1, batch.label)

    def time(self, draws: Draws) -> Float[Tensor, " batch"]:
        """The level of each example as a time k/T, k = 1 ... T."""
        return draws.level_times("t", self.num_levels)

    def earlier(self, t: Float[Tensor, " batch"], stride: int) -> Float[Tensor, " batch"]:
        """`stride` levels below the levels t, the clean image at the lowest."""
        return ((t * self.num_levels).round() - stride).clamp(min=0.0) / self.num_levels

    def noisy(
        self, mean: Float[Tensor, "batch dim"], t: Float[Tensor, " batch"] | float, draws: Draws, name: str
    ) -> Float[Tensor, "batch 1 dim"]:
        """The state: `mean` plus the process's own noise sigma(t) at that level, drawn in data space as `name`."""
        if self._has_noise:
            eps = self.process.basis.to_components(draws.normal(name, self.process.shape))
            mean = torch.addcmul(mean, self.process.sigma(t).to(mean), eps)
        return mean.unsqueeze(1)

    def error(self, inputs: PhaseInputs, output: Tensor) -> Float[Tensor, "batch dim"]:
        """Prediction minus truth, in components."""
        assert isinstance(inputs, LevelInputs)
        prediction = self.precondition.prediction(inputs.u_t, inputs.t, output.float(), inputs.network.cond)
        return prediction.value - inputs.truth
