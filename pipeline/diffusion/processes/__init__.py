"""Forward processes and their table."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.config import ConfigError, Spec, parse, union
from pipeline.diffusion.processes.marginal import AnyMarginal, ExplicitMarginal, Marginal, is_still
from pipeline.diffusion.processes.operator import OperatorProcess, OperatorSpec
from pipeline.diffusion.processes.spectral import SpectralProcess, SpectralSpec, Time, as_times
from pipeline.diffusion.processes.terminal import (
    TERMINALS,
    Density,
    GaussianTerminal,
    LevelPrior,
    Terminal,
    TrainingImages,
    build_terminal,
    fitted_terminal,
)
from pipeline.diffusion.statistics import Statistics

__all__ = [
    "PROCESSES",
    "TERMINALS",
    "AnyMarginal",
    "Density",
    "ExplicitMarginal",
    "GaussianTerminal",
    "LevelPrior",
    "Marginal",
    "OperatorProcess",
    "Process",
    "ProcessSpec",
    "SpectralProcess",
    "Terminal",
    "Time",
    "TrainingImages",
    "as_times",
    "build_process",
    "build_terminal",
    "diagonal",
    "fitted_terminal",
    "is_still",
]

Process = SpectralProcess | OperatorProcess

PROCESSES: dict[str, type[SpectralSpec] | type[OperatorSpec]] = {"spectral": SpectralSpec, "operator": OperatorSpec}

ProcessSpec: Any = union(PROCESSES)


def build_process(
    spec: Mapping[str, Any] | Spec,
    shape: tuple[int, ...],
    statistics: Statistics | None = None,
    terminal: Mapping[str, Any] | Spec | Terminal | Density | None = None,
) -> Process:
    """The process that `spec` describes, for data of `shape` (`(C, H, W)` or `(D,)`).

    Args:
        spec: a mapping or a ready specification.
        shape: of one datum.
        statistics: needed by basis pca, centre mean, prior data and schedule gud.
        terminal: where x_T comes from, or its density; None means N(0, diag s^2). One that is made of training
            images is built by `build_terminal` and given here.

    Raises:
        ConfigError: the specification is wrong, or statistics are missing or do not fit.
    """
    validated: SpectralSpec | OperatorSpec = parse(ProcessSpec, spec, "process")
    process = validated.build(tuple(shape), statistics)
    if terminal is None:
        return process
    is_ready = isinstance(terminal, Terminal | Density)
    return replace(process, terminal=terminal if is_ready else build_terminal(terminal, process))


def diagonal(process: Process) -> SpectralProcess:
    """The process, if it acts on each component of a basis by itself.

    Raises:
        ConfigError: it does not, so that it has no law per component.
    """
    if not isinstance(process, SpectralProcess):
        raise ConfigError("a degradation that is diagonal in no basis has no law per component; use cold or previous")
    return process
