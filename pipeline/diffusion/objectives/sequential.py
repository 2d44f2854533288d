"""Regression of the next cleaner level: IHDM, and cold diffusion that predicts x_{t-1}. Rissanen et al. 2023, eq. 9."""

from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from pipeline.diffusion.objectives.base import Batch, Draws, Metrics, Phase, PhaseInputs
from pipeline.diffusion.objectives.levels import LevelInputs, Levelled, LevelledSpec
from pipeline.diffusion.predictor import Condition, Precondition


class SequentialSpec(LevelledSpec):
    """Squared error of D(x_0, s), noiseless, summed over the components; all levels 1 ... T are trained.

    Attributes:
        stride: s lies so many levels below t, the clean image at the lowest.
    """

    kind: Literal["sequential"] = "sequential"
    stride: PositiveInt = 1

    @property
    def num_times(self) -> int:
        return 2

    def build(self, precondition: Precondition | None = None) -> "Sequential":
        return Sequential(self, precondition)


class Sequential(Levelled):
    """One network, one phase; level k = 1 ... T of each example with equal chance.

    The published code of IHDM leaves out the highest level, from which its sampler starts; here it is trained.
    """

    def __init__(self, spec: SequentialSpec, precondition: Precondition | None) -> None:
        super().__init__(spec, precondition, "x_prev")
        self.spec = spec
        self._phase = Phase(optimiser=self.network, network=self.network, inputs=self.inputs, loss=self.loss)

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (self._phase,)

    def inputs(self, batch: Batch, draws: Draws) -> LevelInputs:
        """Degrades the batch to t, with the noise of the process if it has any, and to s, without."""
        t = self.time(draws)
        s = self.earlier(t, self.spec.stride)
        c_0 = self.process.to_components(batch.x_0)
        u_t = self.noisy(self.process.degrade(c_0, t), t, draws, "eps")
        condition = Condition(label=self.condition_label(batch, draws), time_to=s)
        network = self.precondition.inputs(u_t, t, condition)
        return LevelInputs(network=network, u_t=u_t, t=t, truth=self.process.degrade(c_0, s))

    def loss(self, inputs: PhaseInputs, output: Tensor) -> tuple[Float[Tensor, " batch"], Metrics]:
        """Summed squared error per example, float32; no metrics."""
        return self.error(inputs, output).square().sum(1).float(), {}
