"""Grids: the typed tree, axes, validity, the plan, and the driver that runs it."""

from pipeline.grid.plan import Cell, Plan, make_plan
from pipeline.grid.spec import GridSpec, load_grid

__all__ = ["Cell", "GridSpec", "Plan", "load_grid", "make_plan"]
