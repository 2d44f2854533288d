"""The exact predictor in place of a network, where the data are Gaussian: a rehearsal of a grid without training."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import ConfigError
from pipeline.diffusion import oracles
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes import Process
from pipeline.networks.base import NetworkSpec
from pipeline.networks.embeddings import Reading


class OracleSpec(NetworkSpec):
    """Predicts exactly for data N(mean, diag variances), the moments of the data set; nothing is trained."""

    kind: Literal["oracle"] = "oracle"

    is_trained: ClassVar[bool] = False

    def module(self, shape: tuple[int, ...], reading: Reading) -> nn.Module:
        raise ConfigError("network: oracle is not trained and has no weights; use mlp or unet to train one")


class OraclePredictor(Predictor):
    """The exact predictor of Gaussian data, diagonal in the components of a process, with the moments it knows.

    It answers in float64 precision and in the dtype and on the device of the state, and is differentiable in it.

    Args:
        process: a forward process with data statistics, diagonal in its basis.
        device: where the moments are kept; states on another one are answered there, at the price of a copy.

    Raises:
        ConfigError: there are no statistics, or the process is a degradation, whose levels have no noise to predict.
    """

    def __init__(self, process: Process, *, device: torch.device | str = "cpu") -> None:
        super().__init__(_zero, process, "eps")
        if process.variances is None:
            raise ConfigError(
                "network: oracle predicts from the mean and the variances of the data; there are none in the basis of "
                "this process, use basis pca, pixel, dct, haar or fourier"
            )
        self.exact = oracles.gaussian(process, process.mean_components.to(device), process.variances.to(device))

    def __call__(
        self, u_t: Float[Tensor, "batch J dim"], t: Tensor | float, cond: Condition | None = None
    ) -> Prediction:
        return self.exact(u_t, t, cond)


def _zero(x: Tensor, t: Tensor, gamma: Tensor, cond: Condition | None) -> Tensor:
    """The output that `Precondition` takes for the Gaussian optimum."""
    return torch.zeros_like(x)
