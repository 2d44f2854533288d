"""Points of a grid: one combination and seed with all its rows, which is what one trial evaluates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.baselines import BASELINES
from pipeline.grid.axes import SPELLINGS, short
from pipeline.grid.plan import Cell, Plan
from pipeline.grid.spec import GridSpec
from pipeline.store import Key, Store, fingerprint

OF_THE_SAMPLER = ("sampler", "steps", "log_snr_step", "latents")
"""Parameters in which the rows of one point differ."""
LETTERS = {"softness_a": "a=", "ordering_r": "r=", "overlap_b": "b=", "train.steps": "steps=", "train.lr": "lr="}


@dataclass(frozen=True)
class Point:
    """One combination and seed.

    Attributes:
        name: short and unique; the same on every rung.
        params: axes and settings that the rows share.
        cells: its rows, one per sampler; where nothing that is measured depends on the sampler there is one row.
        identity: 64 hex digits, the same on every rung.
    """

    name: str
    params: Mapping[str, Any]
    cells: tuple[Cell, ...] = field(repr=False)
    identity: str

    def is_done(self, store: Store) -> bool:
        """Whether the store has the results and studies of all rows."""
        keys = (task.key for cell in self.cells for task in (cell.tasks.result, *cell.tasks.studies))
        return all(store.find(key) is not None for key in keys)


def points_of(plan: Plan) -> tuple[Point, ...]:
    """The rows of a plan by combination and seed, in plan order."""
    groups: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault(_identity(cell), []).append(cell)
    varied = _varied(plan.grid)
    params = {identity: _shared_params(cells[0]) for identity, cells in groups.items()}
    names = {identity: _name(shared, varied, plan.grid) for identity, shared in params.items()}
    taken = list(names.values())
    names = {key: name if taken.count(name) == 1 else f"{name}#{key[:6]}" for key, name in names.items()}
    return tuple(Point(names[key], params[key], tuple(cells), key) for key, cells in groups.items())


def of_points(plan: Plan, points: Iterable[Point]) -> Plan:
    """The part of a plan that belongs to some of its points."""
    cells = tuple(cell for point in points for cell in point.cells)
    return replace(plan, cells=cells, tasks={task.key: task for cell in cells for task in cell.tasks.in_order()})


def _shared_params(cell: Cell) -> dict[str, Any]:
    return {name: value for name, value in cell.params.items() if name not in OF_THE_SAMPLER}


def _identity(cell: Cell) -> str:
    """What tells points apart on every rung: parameters, data set and training, not what is measured."""
    inputs: dict[str, Key] = {"dataset": cell.tasks.dataset.key}
    if cell.tasks.training is not None:
        inputs["model"] = cell.tasks.training.key
    params = {name: str(value) for name, value in _shared_params(cell).items()}
    return fingerprint("point", 1, params, inputs)


def _name(params: Mapping[str, Any], varied: Mapping[str, list[str]], grid: GridSpec) -> str:
    baseline = str(params["baseline"])
    parts = [f"{LETTERS.get(key, '')}{short(params[key])}" for key in varied[baseline] if key in params]
    return "/".join([baseline, *parts, *([f"seed{params['seed']}"] if len(grid.seeds) > 1 else [])])


def _varied(grid: GridSpec) -> dict[str, list[str]]:
    """Per baseline the parameters that the file varies: the same whichever rows a plan keeps."""
    stated = [key for block in grid.grid for key in block if key != "baseline"]
    searched = () if grid.tune is None or grid.tune.search is None else tuple(grid.tune.search.space)
    values: dict[str, dict[str, set[str]]] = {}
    for block in grid.grid:
        for spelling in map(str, _listed(block["baseline"])):
            name = SPELLINGS.get(spelling, spelling)
            seen = values.setdefault(name, {})
            for key in dict.fromkeys((*stated, *searched)):
                found = _listed(block.get(key, BASELINES[name].axes.get(key)))
                seen.setdefault(key.replace("experiment.", ""), set()).update(map(short, found))
    return {
        name: [key for key, found in seen.items() if len(found) > 1 or key in searched] for name, seen in values.items()
    }


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
