"""Forward processes and their table."""

import math
from collections.abc import Mapping
from typing import Any, cast

from pipeline.config import Spec, parse, union
from pipeline.diffusion.processes.marginal import AnyMarginal, ExplicitMarginal, Marginal, is_still
from pipeline.diffusion.processes.spectral import SpectralProcess, SpectralSpec, Time, as_times
from pipeline.diffusion.processes.terminal import TERMINALS, GaussianTerminal, Terminal
from pipeline.diffusion.statistics import Statistics

__all__ = [
    "PROCESSES",
    "TERMINALS",
    "AnyMarginal",
    "ExplicitMarginal",
    "GaussianTerminal",
    "Marginal",
    "Process",
    "ProcessSpec",
    "SpectralProcess",
    "Terminal",
    "Time",
    "as_times",
    "build_process",
    "is_still",
]

Process = SpectralProcess

PROCESSES: dict[str, type[SpectralSpec]] = {"spectral": SpectralSpec}

ProcessSpec: Any = union(PROCESSES)


def build_process(
    spec: Mapping[str, Any] | Spec,
    shape: tuple[int, ...],
    statistics: Statistics | None = None,
    terminal: Mapping[str, Any] | Spec | Terminal | None = None,
) -> Process:
    """The process that `spec` describes, for data of `shape` (`(C, H, W)` or `(D,)`).

    Args:
        spec: a mapping or a ready specification.
        shape: of one datum.
        statistics: needed by basis pca, centre mean, prior data and schedule gud.
        terminal: density of the components at t = 1; None means N(0, diag s^2).

    Raises:
        ConfigError: the specification is wrong, or statistics are missing or do not fit.
    """
    validated: SpectralSpec = parse(ProcessSpec, spec, "process")
    if terminal is not None and not hasattr(terminal, "log_prob"):
        terminal = parse(union(TERMINALS), terminal, "terminal").build(math.prod(shape))
    return validated.build(tuple(shape), statistics, cast(Terminal | None, terminal))
