"""Denoising diffusion (Ho, Jain & Abbeel 2020): one noise level per step, Gaussian reverse steps."""

from typing import Any

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.degraded import degradation_of, process_of
from pipeline.baselines.noise_schedules import levels_refusal, noise_schedule
from pipeline.diffusion.processes.degradations import DEGRADATIONS

_GAUSSIAN = tuple(name for name, degradation in DEGRADATIONS.items() if degradation.is_gaussian)
_ONLY_NOISE = ("degradation", "noise")


def _system(axes: Axes) -> dict[str, Any]:
    if axes["degradation"] == "noise":
        process: dict[str, Any] = {
            "kind": "spectral",
            "basis": axes["basis"],
            "centre": axes["centre"],
            "prior": "standard",
            "schedule": noise_schedule(axes["schedule"], axes["num_levels"]),
        }
    else:
        process = process_of(axes)
    objective = {"kind": "denoising", "loss": axes["loss"], "weighting": axes["weighting"]}
    return {"process": process, "prediction": axes["prediction"], "objective": objective}


def _refusal(axes: Axes) -> str | None:
    name, _ = degradation_of(axes)
    if name not in _GAUSSIAN:
        return (
            f"ddpm cannot take degradation = {name}: its reverse steps are Gaussian, so the forward process has to add "
            f"noise; possible: {', '.join(_GAUSSIAN)}"
        )
    if axes["prediction"] == "v" and name != "noise":
        return f"prediction v needs a schedule that preserves variance; {name} takes eps or x0"
    return levels_refusal(axes["schedule"], axes["num_levels"])


DDPM = Baseline(
    name="ddpm",
    summary="Denoising diffusion with one scalar schedule, or blurring diffusion (Ho 2020; Hoogeboom & Salimans 2023).",
    axes={
        "degradation": "noise",
        "schedule": "cosine",
        "num_levels": None,
        "prediction": "eps",
        "basis": "pixel",
        "centre": "grey",
        "loss": "mse",
        "weighting": "uniform",
    },
    choices={"prediction": (("eps", "x0", "v", "score"), "its reverse steps need x_0 and noise")},
    needs=dict.fromkeys(("schedule", "num_levels", "basis", "centre"), _ONLY_NOISE),
    refusal=_refusal,
    system=_system,
    samplers=({"kind": "ddim", "steps": 50}, {"kind": "ancestral", "steps": 250}),
)
