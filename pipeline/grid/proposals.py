"""Points that a searcher proposed: kept beside the grid, and rows of it like any other."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config import ConfigError
from pipeline.grid.axes import SPELLINGS
from pipeline.grid.spec import SORTABLE, GridSpec, SearchSpec
from pipeline.grid.status import grid_documents
from pipeline.store import Store

DOCUMENT = "points.json"
DIGITS = 10
Proposal = dict[str, float]
"""Value of every searched axis, a multiple of the step."""


def search_of(grid: GridSpec) -> SearchSpec | None:
    """The search that a grid asks for, or None."""
    return None if grid.tune is None or grid.tune.mode != "search" else grid.tune.search


def bounds(search: SearchSpec) -> dict[str, tuple[float, float]]:
    """First and last multiple of the step inside the range of each axis.

    Raises:
        ConfigError: a range holds none.
    """
    found: dict[str, tuple[float, float]] = {}
    for name, (low, high) in search.space.items():
        first, last = math.ceil(low / search.step - 1e-9), math.floor(high / search.step + 1e-9)
        if first > last:
            raise ConfigError(
                f"tune.search.space.{name}: [{low:g}, {high:g}] holds no multiple of step = {search.step:g}"
            )
        found[name] = round(first * search.step, DIGITS), round(last * search.step, DIGITS)
    return found


def rounded(search: SearchSpec, values: Mapping[str, Any]) -> Proposal:
    """The nearest point whose coordinates are multiples of the step, inside the space."""
    proposal: Proposal = {}
    for name, (low, high) in bounds(search).items():
        value = round(round(float(values[name]) / search.step) * search.step, DIGITS)
        proposal[name] = min(max(value, low), high)
    return proposal


def is_inside(search: SearchSpec, values: Mapping[str, Any]) -> bool:
    """Whether a point could have been proposed by this search."""
    if any(not isinstance(values.get(name), int | float) for name in search.space):
        return False
    return all(abs(float(values[name]) - value) < 1e-9 for name, value in rounded(search, values).items())


def template(grid: GridSpec) -> dict[str, Any]:
    """The block that a proposal is put into: the first of baseline gud, which states one value of every other axis.

    Raises:
        ConfigError: there is none, or it has several values of an axis that is not searched.
    """
    search = search_of(grid)
    assert search is not None
    for block in grid.grid:
        if _only(block["baseline"]) not in ("gud", *(name for name, known in SPELLINGS.items() if known == "gud")):
            continue
        fixed = {name: value for name, value in block.items() if name not in search.space}
        several = [name for name, value in fixed.items() if isinstance(value, list | tuple) and len(value) != 1]
        if several:
            raise ConfigError(
                f"grid {grid.name}: a search needs one value of {several[0]} in its first gud block, which stands for "
                "all proposals; give one value, or write a grid for each"
            )
        return fixed
    raise ConfigError(f"grid {grid.name}: a search needs a block of baseline gud alone, which stands for all proposals")


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def proposal_grid(grid: GridSpec, proposal: Proposal) -> GridSpec:
    """The grid of the rows of one proposal, for all seeds."""
    return grid.model_copy(update={"grid": ({**template(grid), **proposal},)})


def with_proposals(grid: GridSpec, proposals: Iterable[Proposal]) -> GridSpec:
    """The grid with the rows of all proposals behind its own."""
    unique = {tuple(sorted(proposal.items())): proposal for proposal in proposals}
    blocks = tuple({**template(grid), **proposal} for proposal in unique.values())
    return grid.model_copy(update={"grid": (*grid.grid, *blocks)})


def check_search(grid: GridSpec) -> None:
    """Refuse a search that cannot work before anything starts.

    Raises:
        ConfigError: no block to put proposals into, an empty space, or a metric that the grid does not measure.
    """
    search = search_of(grid)
    if search is None:
        return
    template(grid)
    bounds(search)
    possible = [SORTABLE[metric] for metric in grid.evaluate.metrics if metric in SORTABLE]
    if not search.metric.startswith(tuple(possible)):
        names = " or ".join(f"{name}<data set>" if name.endswith("_") else name for name in possible)
        raise ConfigError(f"tune.search.metric: {search.metric} is not measured here; use {names or 'another grid'}")


def read_proposals(store: Store, grid: GridSpec) -> list[Proposal]:
    """Proposals of earlier commands that lie in the space of this search, in order; a point may occur twice."""
    search = search_of(grid)
    content = None if search is None else grid_documents(store, grid.name).get(DOCUMENT)
    if search is None or content is None:
        return []
    entries = json.loads(content)["proposals"]
    return [rounded(search, entry["point"]) for entry in entries if is_inside(search, entry["point"])]


def add_proposal(store: Store, grid: GridSpec, trial: str, proposal: Proposal) -> None:
    """Remember what a trial evaluates; telling it again changes nothing."""
    documents = grid_documents(store, grid.name)
    content = documents.get(DOCUMENT)
    entries: list[dict[str, Any]] = [] if content is None else json.loads(content)["proposals"]
    if any(entry["trial"] == trial for entry in entries):
        return
    entries.append({"trial": trial, "point": proposal})
    documents.put(DOCUMENT, json.dumps({"proposals": entries}, indent=1).encode())
