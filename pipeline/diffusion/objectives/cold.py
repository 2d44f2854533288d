"""Cold diffusion: regression of x_0 on the levels of a degradation. Bansal et al. 2022."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.objectives.base import Batch, Draws, Metrics, Phase, PhaseInputs
from pipeline.diffusion.objectives.levels import LevelInputs, Levelled, LevelledSpec
from pipeline.diffusion.predictor import Condition, Precondition


class ColdSpec(LevelledSpec):
    """Mean penalty of the error of x_0 over the values of an image.

    Attributes:
        loss: penalty of one pixel's error d: |d| as published, or d^2.
    """

    kind: Literal["cold"] = "cold"
    loss: Literal["l1", "mse"] = "l1"

    no_density: ClassVar[str | None] = (
        "cold diffusion undoes a deterministic degradation: its samples have no density to evaluate"
    )

    @property
    def num_times(self) -> int:
        return 1

    def build(self, precondition: Precondition | None = None) -> "Cold":
        return Cold(self, precondition)


class Cold(Levelled):
    """One network, one phase; level k = 1 ... T of each example with equal chance."""

    def __init__(self, spec: ColdSpec, precondition: Precondition | None) -> None:
        super().__init__(spec, precondition, "x0")
        self.spec = spec
        self._phase = Phase(optimiser=self.network, network=self.network, inputs=self.inputs, loss=self.loss)

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (self._phase,)

    def inputs(self, batch: Batch, draws: Draws) -> LevelInputs:
        """Degrades the batch, with the noise of the process if it has any."""
        t = self.time(draws)
        c_0 = self.process.to_components(batch.x_0)
        u_t = self.noisy(self.process.degrade(c_0, t), t, draws, "eps")
        label = self.condition_label(batch, draws)
        network = self.precondition.inputs(u_t, t, None if label is None else Condition(label=label))
        return LevelInputs(network=network, u_t=u_t, t=t, truth=c_0)

    def loss(self, inputs: PhaseInputs, output: Tensor) -> tuple[Float[Tensor, " batch"], Metrics]:
        """Loss per example, float32; no metrics."""
        error = self.error(inputs, output)
        if self.spec.loss == "l1":
            return self.process.basis.to_data(error).abs().flatten(1).mean(1).float(), {}
        return error.square().mean(1).float(), {}
