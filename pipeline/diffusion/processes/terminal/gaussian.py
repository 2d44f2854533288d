"""A diagonal Gaussian over the components."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.diffusion.processes.terminal.base import Forward, TerminalSpec, TrainingImages, start_noise


class GaussianTerminal:
    """N(mean, diag variances) over the components, each `(dim,)` float64.

    Args:
        mean: of the components.
        variances: of the components, positive.
        process: needed to draw; a density does without.
    """

    def __init__(self, mean: Tensor, variances: Tensor, process: Forward | None = None) -> None:
        self.mean = mean.to(torch.float64)
        self.variances = variances.to(torch.float64)
        self.process = process

    def log_prob(self, c: Tensor) -> Tensor:
        variances = self.variances.to(c.device)
        residual = c.to(torch.float64) - self.mean.to(c.device)
        return -0.5 * (residual.square() / variances + torch.log(2 * math.pi * variances)).sum(dim=1)

    def draw(self, image_indices: Sequence[int], seed: int) -> Float[Tensor, "batch *shape"]:
        """Mean plus scaled noise; the noise is drawn in data space.

        Raises:
            ValueError: the distribution was made without a process.
        """
        if self.process is None:
            raise ValueError("a Gaussian terminal made without its process is a density only; it has no data space")
        eps = self.process.basis.to_components(start_noise(image_indices, seed, self.process.shape))
        c = self.mean + self.variances.sqrt() * eps
        return self.process.to_data(c).to(torch.float32)


class GaussianTerminalSpec(TerminalSpec):
    """A diagonal Gaussian in the components of the process."""

    kind: Literal["gaussian"] = "gaussian"
    mean: tuple[float, ...]  # one number per component
    variances: tuple[Annotated[float, Field(gt=0.0)], ...]  # one number per component

    @model_validator(mode="after")
    def _same_length(self) -> "GaussianTerminalSpec":
        if len(self.mean) != len(self.variances):
            raise ValueError("mean and variances must have the same length")
        return self

    def build(self, process: Forward, images: TrainingImages | None = None) -> GaussianTerminal:
        """The distribution.

        Raises:
            ConfigError: the lengths are not the number of components.
        """
        if len(self.mean) != process.dim:
            raise ConfigError(f"terminal: mean and variances need {process.dim} entries, found {len(self.mean)}")
        mean, variances = (torch.tensor(part, dtype=torch.float64) for part in (self.mean, self.variances))
        return GaussianTerminal(mean, variances, process)
