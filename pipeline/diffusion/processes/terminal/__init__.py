"""Terminal distributions and their table: where x_T comes from."""

from collections.abc import Mapping
from typing import Any

from pipeline.config import Spec, parse, union
from pipeline.diffusion.processes.terminal.base import (
    Density,
    Forward,
    LevelPrior,
    Terminal,
    TerminalSpec,
    TrainingImages,
)
from pipeline.diffusion.processes.terminal.flat import FlatColourSpec, FlatColourTerminal, ZerosSpec, ZerosTerminal
from pipeline.diffusion.processes.terminal.gaussian import GaussianTerminal, GaussianTerminalSpec
from pipeline.diffusion.processes.terminal.images import TrainingImagesSpec, TrainingImagesTerminal

__all__ = [
    "TERMINALS",
    "Density",
    "FlatColourTerminal",
    "Forward",
    "GaussianTerminal",
    "LevelPrior",
    "Terminal",
    "TerminalSpec",
    "TrainingImages",
    "TrainingImagesTerminal",
    "ZerosTerminal",
    "build_terminal",
    "fitted_terminal",
]

TERMINALS: dict[str, type[TerminalSpec]] = {
    "gaussian": GaussianTerminalSpec,
    "zeros": ZerosSpec,
    "flat_colour": FlatColourSpec,
    "training_images": TrainingImagesSpec,
}


def build_terminal(spec: Mapping[str, Any] | Spec, process: Forward, images: TrainingImages | None = None) -> Terminal:
    """The terminal distribution of `process` that `spec` describes, `{kind: zeros, noise: 0.02}`.

    Args:
        spec: a mapping or a ready specification.
        process: the process that it ends.
        images: the training split, where the distribution is made of it.

    Raises:
        ConfigError: the specification is wrong or does not fit the process.
    """
    checked: TerminalSpec = parse(union(TERMINALS), spec, "terminal")
    return checked.build(process, images)


def fitted_terminal(fit: Mapping[str, Any], noise: float) -> TerminalSpec | None:
    """The distribution that the meta of a terminal artifact describes, with symmetry-breaking noise added to it.

    Args:
        fit: meta of the artifact: `kind`, and for a flat colour `mean` and `covariance`.
        noise: standard deviation of the noise, on the [-1, 1] scale.

    Returns:
        None where the process ends in its own Gaussian prior.
    """
    if fit["kind"] == "gaussian":
        return None
    fitted = {name: fit[name] for name in ("mean", "covariance") if fit["kind"] == "flat_colour"}
    return parse(union(TERMINALS), {"kind": fit["kind"], "noise": noise, **fitted}, "terminal")
