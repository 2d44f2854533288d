"""Evaluation of generated images: feature statistics, distances, likelihoods and the result row."""

from pipeline.evaluate.frechet import frechet_distance
from pipeline.evaluate.neighbours import density_coverage, kernel_distance, precision_recall
from pipeline.evaluate.statistics import FeatureStatistics

__all__ = ["FeatureStatistics", "density_coverage", "frechet_distance", "kernel_distance", "precision_recall"]
