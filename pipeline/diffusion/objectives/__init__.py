"""Objectives: what a training minimises."""

from pipeline.diffusion.objectives.amortise import AmortiseSpec
from pipeline.diffusion.objectives.base import (
    ENCODER,
    Batch,
    Draws,
    Metrics,
    Objective,
    ObjectiveSpec,
    Phase,
    PhaseInputs,
)
from pipeline.diffusion.objectives.classification import Classification, ClassificationSpec
from pipeline.diffusion.objectives.cold import Cold, ColdSpec
from pipeline.diffusion.objectives.denoising import Denoising, DenoisingSpec
from pipeline.diffusion.objectives.sequential import Sequential, SequentialSpec
from pipeline.diffusion.objectives.variational_cold import VariationalCold, VariationalColdSpec

OBJECTIVES: dict[str, type[ObjectiveSpec]] = {
    "denoising": DenoisingSpec,
    "cold": ColdSpec,
    "sequential": SequentialSpec,
    "variational_cold": VariationalColdSpec,
    "classification": ClassificationSpec,
}

__all__ = [
    "ENCODER",
    "OBJECTIVES",
    "AmortiseSpec",
    "Batch",
    "Classification",
    "ClassificationSpec",
    "Cold",
    "ColdSpec",
    "Denoising",
    "DenoisingSpec",
    "Draws",
    "Metrics",
    "Objective",
    "ObjectiveSpec",
    "Phase",
    "PhaseInputs",
    "Sequential",
    "SequentialSpec",
    "VariationalCold",
    "VariationalColdSpec",
]
