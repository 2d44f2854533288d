"""Cross entropy with small shifts and noise: trains the feature classifier of a data set."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from pipeline.diffusion.objectives.base import Batch, Draws, Metrics, Objective, ObjectiveSpec, Phase, PhaseInputs
from pipeline.diffusion.predictor import NetworkInputs, Precondition


class ClassificationSpec(ObjectiveSpec):
    """Augmentation of the training images.

    Attributes:
        max_shift: each image moves by up to this many pixels along each axis, edges repeated; points do not move.
        noise_std: standard deviation of the added noise, in data units (the range is 2).
    """

    kind: Literal["classification"] = "classification"
    max_shift: NonNegativeInt = 1
    noise_std: NonNegativeFloat = 0.05

    def build(self, precondition: Precondition | None = None) -> "Classification":
        return Classification(self)


@dataclass(frozen=True, kw_only=True)
class ClassificationInputs(PhaseInputs):
    """label `(batch,)`."""

    label: Tensor


def shifted(x: Float[Tensor, "batch channels height width"], rows: Tensor, columns: Tensor) -> Tensor:
    """Image i moved by (rows[i], columns[i]) whole pixels, `(batch,)` int64 each; edge pixels are repeated."""
    height, width = x.shape[2:]
    row = (torch.arange(height, device=x.device) - rows[:, None]).clamp(0, height - 1)
    column = (torch.arange(width, device=x.device) - columns[:, None]).clamp(0, width - 1)
    example = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, -1)[example, row[:, :, None], column[:, None, :]].movedim(-1, 1).contiguous()


class Classification(Objective):
    """One classifier, one phase."""

    def __init__(self, spec: ClassificationSpec) -> None:
        self.spec = spec
        self._phase = Phase(optimiser=self.network, network=self.network, inputs=self.inputs, loss=self.loss)

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (self._phase,)

    def inputs(self, batch: Batch, draws: Draws) -> ClassificationInputs:
        """Augmented images and their labels."""
        if batch.label is None:
            raise ValueError("a classifier needs labels, and this data set has none")
        x = batch.x_0
        if self.spec.max_shift and x.ndim == 4:
            num_moves = 2 * self.spec.max_shift + 1
            moves = (draws.uniform("shift", (2,)) * num_moves).floor().long() - self.spec.max_shift
            x = shifted(x, moves[:, 0], moves[:, 1])
        if self.spec.noise_std:
            x = x + self.spec.noise_std * draws.normal("noise", x.shape[1:])
        zeros = torch.zeros(len(x), device=x.device)
        return ClassificationInputs(network=NetworkInputs(x=x, t=zeros, gamma=zeros[:, None]), label=batch.label)

    def loss(self, inputs: PhaseInputs, output: Tensor) -> tuple[Float[Tensor, " batch"], Metrics]:
        """Cross entropy in nats per example, and `accuracy` (0 or 1)."""
        assert isinstance(inputs, ClassificationInputs)
        logits = output.float()
        loss = torch.nn.functional.cross_entropy(logits, inputs.label, reduction="none")
        return loss, {"accuracy": (logits.detach().argmax(1) == inputs.label).float()}
