"""Which combinations make sense, as data: each rule has a test and a sentence for the user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.diffusion.schedules import SCHEDULES
from pipeline.grid.axes import Combination, short


@dataclass(frozen=True)
class Rule:
    """A combination that the rule matches is skipped, with the sentence as the reason."""

    name: str
    matches: Callable[[Combination], bool]
    sentence: Callable[[Combination], str]


def _axis(combination: Combination, name: str) -> Any:
    return combination.axes.get(name)


def _foreign_axes(combination: Combination) -> list[str]:
    return [name for name in combination.given if name not in combination.baseline.axes]


def _idle_given(combination: Combination) -> list[str]:
    return [name for name in combination.given if name in combination.idle]


def _idle_sentence(combination: Combination) -> str:
    name = _idle_given(combination)[0]
    other, value = combination.baseline.needs[name]
    return f"{name} means something only with {other} = {short(value)}; {other} is {short(_axis(combination, other))}"


def _forbidden_choice(combination: Combination) -> str | None:
    for name, (allowed, clause) in combination.baseline.choices.items():
        value = _axis(combination, name)
        if value not in allowed:
            possible = ", ".join(short(item) for item in allowed)
            return f"{combination.baseline.name} cannot take {name} = {short(value)}: {clause}; possible: {possible}"
    return None


def _needs_basis(ordering: str, bases: tuple[str, ...]) -> Rule:
    def matches(combination: Combination) -> bool:
        return _axis(combination, "ordering") == ordering and _axis(combination, "basis") not in bases

    def sentence(combination: Combination) -> str:
        basis = _axis(combination, "basis")
        return f"ordering {ordering} is not defined in the {basis} basis; use basis {' or '.join(bases)}"

    return Rule(f"ordering_{ordering}", matches, sentence)


def _schedule_kind(combination: Combination) -> str:
    schedule = _axis(combination, "schedule")
    return schedule.get("kind", "") if isinstance(schedule, dict) else str(schedule)


DEGRADING = tuple(
    kind for kind, spec in SCHEDULES.items() if kind == "blurring" or getattr(spec, "is_degradation", False)
)
"""Schedules that give alpha and sigma as they are."""

RULES: tuple[Rule, ...] = (
    Rule(
        "axes_of_the_baseline",
        lambda combination: bool(_foreign_axes(combination)),
        lambda combination: (
            f"{combination.baseline.name} has no {' and no '.join(_foreign_axes(combination))}; "
            f"it takes {', '.join(combination.baseline.axes) or 'no axes'}"
        ),
    ),
    Rule(
        "choices_of_the_baseline",
        lambda combination: _forbidden_choice(combination) is not None,
        lambda combination: str(_forbidden_choice(combination)),
    ),
    Rule("axes_that_need_another", lambda combination: bool(_idle_given(combination)), _idle_sentence),
    Rule(
        "values_of_the_baseline",
        lambda combination: combination.baseline.refusal(combination.axes) is not None,
        lambda combination: str(combination.baseline.refusal(combination.axes)),
    ),
    Rule(
        "component_schedule_of_ddpm",
        lambda combination: (
            combination.baseline.name == "ddpm" and _schedule_kind(combination) in ("gud", "columns", "haar_columns")
        ),
        lambda combination: f"ddpm has one scalar schedule; {_schedule_kind(combination)} needs baseline gud",
    ),
    Rule(
        "degradation_as_schedule",
        lambda combination: _schedule_kind(combination) in DEGRADING,
        lambda combination: (
            f"schedule {_schedule_kind(combination)} is that of a degradation; state it as one, "
            "degradation: blur for example, with a baseline that takes it"
        ),
    ),
    Rule(
        "ordering_interpolation",
        lambda combination: (
            _axis(combination, "ordering_r") not in (None, 0, 0.0) and (_axis(combination, "ordering") != "variance")
        ),
        lambda combination: (
            f"ordering_r interpolates from ordering variance to frequency; with ordering "
            f"{short(_axis(combination, 'ordering'))} it must be 0"
        ),
    ),
    _needs_basis("level", ("haar",)),
    _needs_basis("column", ("pixel", "haar")),
    _needs_basis("row", ("pixel", "haar")),
    Rule(
        "columns_in_pixels",
        lambda combination: _schedule_kind(combination) == "columns" and _axis(combination, "basis") != "pixel",
        lambda combination: f"schedule columns moves pixel columns; basis is {_axis(combination, 'basis')}, use pixel",
    ),
    Rule(
        "haar_columns_in_haar",
        lambda combination: _schedule_kind(combination) == "haar_columns" and _axis(combination, "basis") != "haar",
        lambda combination: (
            f"schedule haar_columns moves wavelet levels; basis is {_axis(combination, 'basis')}, use haar"
        ),
    ),
)


def refusal(combination: Combination) -> str | None:
    """The reason why a combination is skipped, or None when it is valid."""
    for rule in RULES:
        if rule.matches(combination):
            return rule.sentence(combination)
    return None
