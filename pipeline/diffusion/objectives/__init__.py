"""Objectives: what a training minimises."""

from pipeline.diffusion.objectives.base import Batch, Draws, Metrics, Objective, ObjectiveSpec, Phase, PhaseInputs
from pipeline.diffusion.objectives.classification import Classification, ClassificationSpec
from pipeline.diffusion.objectives.denoising import Denoising, DenoisingSpec

OBJECTIVES: dict[str, type[ObjectiveSpec]] = {"denoising": DenoisingSpec, "classification": ClassificationSpec}

__all__ = [
    "OBJECTIVES",
    "Batch",
    "Classification",
    "ClassificationSpec",
    "Denoising",
    "DenoisingSpec",
    "Draws",
    "Metrics",
    "Objective",
    "ObjectiveSpec",
    "Phase",
    "PhaseInputs",
]
