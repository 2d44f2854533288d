"""Degradations of whole images that no orthonormal basis makes diagonal, and their table."""

from typing import TYPE_CHECKING

from pipeline.config import union
from pipeline.diffusion.processes.operators.base import Operator, OperatorDegradationSpec, SeparableOperator
from pipeline.diffusion.processes.operators.pixelate_nearest import PixelateNearestSpec
from pipeline.diffusion.processes.operators.reflect_blur import ReflectBlurSpec

__all__ = ["OPERATORS", "Operator", "OperatorDegradationSpec", "OperatorUnion", "SeparableOperator"]

OPERATORS: dict[str, type[OperatorDegradationSpec]] = {
    "pixelate_nearest": PixelateNearestSpec,
    "reflect_blur": ReflectBlurSpec,
}

if TYPE_CHECKING:
    OperatorUnion = OperatorDegradationSpec
else:
    OperatorUnion = union(OPERATORS)
