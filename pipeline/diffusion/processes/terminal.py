"""Where x_T comes from, as a density over components."""

import math
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import ConfigError, Spec


@runtime_checkable
class Terminal(Protocol):
    """A density over the components at t = 1."""

    def log_prob(self, c: Tensor) -> Tensor:
        """Nats per row of `c` `(batch, dim)`."""
        ...


class GaussianTerminal:
    """N(mean, diag variances) over the components, each `(dim,)` float64."""

    def __init__(self, mean: Tensor, variances: Tensor) -> None:
        self.mean = mean.to(torch.float64)
        self.variances = variances.to(torch.float64)

    def log_prob(self, c: Tensor) -> Tensor:
        variances = self.variances.to(c.device)
        residual = c.to(torch.float64) - self.mean.to(c.device)
        return -0.5 * (residual.square() / variances + torch.log(2 * math.pi * variances)).sum(dim=1)


class GaussianTerminalSpec(Spec):
    """A diagonal Gaussian in the components of the process."""

    kind: Literal["gaussian"] = "gaussian"
    mean: tuple[float, ...]
    variances: tuple[Annotated[float, Field(gt=0.0)], ...]

    @model_validator(mode="after")
    def _same_length(self) -> "GaussianTerminalSpec":
        if len(self.mean) != len(self.variances):
            raise ValueError("mean and variances must have the same length")
        return self

    def build(self, dim: int) -> Terminal:
        """The density.

        Raises:
            ConfigError: the lengths are not `dim`.
        """
        if len(self.mean) != dim:
            raise ConfigError(f"terminal: mean and variances need {dim} entries, found {len(self.mean)}")
        return GaussianTerminal(
            torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.variances, dtype=torch.float64)
        )


TERMINALS: dict[str, type[GaussianTerminalSpec]] = {"gaussian": GaussianTerminalSpec}
