"""Evaluation of generated images: feature statistics, distances, likelihoods and the result row."""

from pipeline.evaluate.frechet import frechet_distance
from pipeline.evaluate.neighbours import kernel_distance, precision_recall
from pipeline.evaluate.statistics import FeatureStatistics

__all__ = ["FeatureStatistics", "frechet_distance", "kernel_distance", "precision_recall"]
