"""Experiment grids of generalized diffusion models: from one YAML file to a table of results."""

__version__ = "0.1.0"
