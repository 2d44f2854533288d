"""Grid blocks: inside a block the lists multiply; the grid is the union of its blocks."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.baselines import BASELINES, Baseline
from pipeline.config import ConfigError, closest

SPELLINGS = {"risannen": "ihdm", "rissanen": "ihdm", "bansal": "cold"}
"""Other spellings of baseline names that grid files may use."""

EXPERIMENT_AXES = ("dataset", "network", "train", "class_conditional")
"""Parts of `experiment` that a block may replace, whole (`train: {...}`) or by one field (`train.lr: [1e-4, 2e-4]`)."""


NUMBERS = frozenset(
    name
    for baseline in BASELINES.values()
    for name, default in baseline.axes.items()
    if isinstance(default, int | float) and not isinstance(default, bool)
) | {"num_levels", "start_noise", "delta"}
"""Axes that take numbers."""


@dataclass(frozen=True)
class Combination:
    """One element of the product of a block.

    Attributes:
        baseline: the baseline.
        given: axis values that the block states.
        overrides: replacements below `experiment`, by dotted path.
        block: position of the block in the grid.
    """

    baseline: Baseline
    given: Mapping[str, Any]
    overrides: Mapping[str, Any]
    block: int

    @property
    def axes(self) -> dict[str, Any]:
        """All axes of the baseline: the block's values over the defaults."""
        return {name: self.given.get(name, default) for name, default in self.baseline.axes.items()}

    @property
    def idle(self) -> list[str]:
        """Axes that mean nothing here, because another axis has not the value that they need."""
        axes = self.axes
        return [name for name, (other, value) in self.baseline.needs.items() if axes[other] != value]

    @property
    def label(self) -> str:
        """The combination as the grid file states it."""
        values = [f"{name}={short(value)}" for name, value in {**self.given, **self.overrides}.items()]
        return " ".join([self.baseline.name, *values])


def short(value: Any) -> str:
    """A value as a name shows it: numbers without trailing zeros, mappings by their name or kind."""
    if isinstance(value, Mapping):
        if isinstance(value.get("name"), str):  # a data set
            return value["name"]
        rest = [f"{key}={short(item)}" for key, item in value.items() if key not in ("kind", "preset")]
        return "-".join([str(value.get("preset", value.get("kind", "custom"))), *rest])
    if isinstance(value, list | tuple):
        return "x".join(short(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def combinations(blocks: Sequence[Mapping[str, Any]]) -> Iterator[Combination]:
    """Every combination of every block, in file order.

    Raises:
        ConfigError: a block names no baseline, an unknown baseline, or an axis that no baseline has.
    """
    for index, block in enumerate(blocks):
        where = f"grid.{index}"
        if "baseline" not in block:
            raise ConfigError(f"{where}: baseline: is required; possible: {', '.join(BASELINES)}")
        _check_axes(block, where)
        choices = {key: list(value) if isinstance(value, list | tuple) else [value] for key, value in block.items()}
        for key, values in choices.items():
            if not values:
                raise ConfigError(f"{where}.{key}: the list is empty; give at least one value")
        for values in itertools.product(*choices.values()):
            chosen = dict(zip(choices, values, strict=True))
            name = str(chosen.pop("baseline"))
            name = SPELLINGS.get(name, name)
            if name not in BASELINES:
                raise ConfigError(f"{where}.baseline: unknown baseline {name!r}{closest(name, list(BASELINES))}")
            overrides = {key: value for key, value in chosen.items() if _is_override(key)}
            _check_numbers({key: value for key, value in chosen.items() if key not in overrides}, where)
            given = {key: value for key, value in chosen.items() if key not in overrides}
            yield Combination(BASELINES[name], given, overrides, index)


def _check_numbers(given: Mapping[str, Any], where: str) -> None:
    """Axes whose defaults are numbers take numbers; anything else would fail somewhere inside."""
    for name, value in given.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in NUMBERS and value is not None and not is_number:
            raise ConfigError(f"{where}.{name}: a number is needed, found {short(value)!r}")


def _is_override(key: str) -> bool:
    return key.split(".", 1)[0] in EXPERIMENT_AXES


def _check_axes(block: Mapping[str, Any], where: str) -> None:
    known = {axis for baseline in BASELINES.values() for axis in baseline.axes} | {"baseline"}
    for key in block:
        if key not in known and not _is_override(key):
            candidates = [*known, *EXPERIMENT_AXES]
            raise ConfigError(f"{where}.{key}: no baseline has this axis{closest(key, candidates)}")
