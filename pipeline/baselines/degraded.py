"""What the baselines that walk the levels of a degradation have in common."""

from collections.abc import Mapping
from typing import Any

from pipeline.baselines.base import Axes
from pipeline.config import ConfigError, closest
from pipeline.diffusion.processes.degradations import DEGRADATIONS


def degradation_of(axes: Axes) -> tuple[str, dict[str, Any]]:
    """Name and options of the degradation that the axis states: a name, or `{kind: name, option: value}`.

    Raises:
        ConfigError: no such degradation, or no such option.
    """
    value = axes["degradation"]
    options = dict(value) if isinstance(value, Mapping) else {"kind": value}
    name = str(options.pop("kind", ""))
    if name not in DEGRADATIONS:
        raise ConfigError(f"degradation: unknown name {name!r}{closest(name, list(DEGRADATIONS))}")
    for option in options:
        if option not in DEGRADATIONS[name].options:
            known = list(DEGRADATIONS[name].options)
            raise ConfigError(f"degradation {name}: unknown option {option!r}{closest(option, known)}")
    return name, options


def process_of(axes: Axes, *, noise: float = 0.0) -> dict[str, Any]:
    """The process tree of the degradation, with the axes' number of levels and noise at every level."""
    name, options = degradation_of(axes)
    return DEGRADATIONS[name].process({**options, "num_levels": axes.get("num_levels"), "noise": noise})


def terminal_of(axes: Axes) -> str:
    """What the degradation ends in: gaussian, flat, zero or images."""
    name, options = degradation_of(axes)
    return DEGRADATIONS[name].terminal_with(options)


def start_of(axes: Axes, noise: float) -> dict[str, Any]:
    """Where x_T comes from: fitted where D(x_0, T) is flat or the centre, else degraded training images."""
    source = "training_images" if terminal_of(axes) == "images" else "fitted"
    return {"source": source, "noise": noise}


def deterministic(baseline: str, axes: Axes, *, why: str) -> str | None:
    """Why a degradation that adds noise of its own is refused, or None."""
    name, _ = degradation_of(axes)
    if not DEGRADATIONS[name].is_gaussian:
        return None
    possible = ", ".join(name for name, entry in DEGRADATIONS.items() if not entry.is_gaussian)
    return f"{baseline} cannot take degradation = {name}: {why}; possible: {possible}"
