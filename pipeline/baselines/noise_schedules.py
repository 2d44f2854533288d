"""Noise schedules by the names that grid files use."""

from typing import Any

NAMED: dict[str, dict[str, Any]] = {
    "linear_beta": {"kind": "linear_beta", "beta_min": 1e-4, "beta_max": 0.02, "num_levels": 1000},
    "linear": {"kind": "linear_beta", "beta_min": 1e-4, "beta_max": 0.02, "num_levels": 1000},
    "cosine": {"kind": "cosine"},
    "sigmoid": {"kind": "sigmoid"},
    "vp": {"kind": "vp"},
    "log_linear": {"kind": "log_linear", "gamma_min": -13.3, "gamma_max": 5.0},
}

DISCRETE = ("linear", "linear_beta", "cosine", "sigmoid")
"""Schedules that exist with any number of levels."""

SHORTEST_LINEAR = 21
"""Linear betas run from 0.1/T to 20/T; below T = 21 the last one reaches 1 and nothing of the signal is left."""


def noise_schedule(schedule: Any, num_levels: int | None = None) -> dict[str, Any]:
    """The schedule that a grid's value means: a name, a kind without settings, or a mapping as it is.

    Args:
        schedule: value of the axis.
        num_levels: T of a discrete schedule; None keeps the named schedule as it is.
    """
    if not isinstance(schedule, str):
        return dict(schedule)
    if num_levels is None:
        return dict(NAMED.get(schedule, {"kind": schedule}))
    if schedule in ("linear", "linear_beta"):
        betas = {"beta_min": 0.1 / num_levels, "beta_max": 20 / num_levels}
        return {"kind": "linear_beta", **betas, "num_levels": num_levels}
    return {**NAMED.get(schedule, {"kind": schedule}), "num_levels": num_levels}


def levels_refusal(schedule: Any, num_levels: int | None) -> str | None:
    """Why a schedule cannot have so many levels, or None."""
    if num_levels is None:
        return None
    if not isinstance(schedule, str):
        if schedule.get("num_levels") == num_levels:
            return None
        return f"num_levels = {num_levels} has to stand in the schedule too; write num_levels there, or give a name"
    if schedule not in DISCRETE:
        return f"schedule {schedule} has no discrete levels; num_levels goes with {', '.join(DISCRETE)}"
    if schedule in ("linear", "linear_beta") and num_levels < SHORTEST_LINEAR:
        return (
            f"linear betas need num_levels of at least {SHORTEST_LINEAR}, found {num_levels}: "
            f"the last one, 20/{num_levels}, would leave nothing of the signal"
        )
    return None
