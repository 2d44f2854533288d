"""Denoising diffusion (Ho, Jain & Abbeel 2020): one scalar noise schedule, Gaussian reverse steps."""

from typing import Any

from pipeline.baselines.base import Axes, Baseline

_NAMED_SCHEDULES: dict[str, dict[str, Any]] = {
    "linear_beta": {"kind": "linear_beta", "beta_min": 1e-4, "beta_max": 0.02, "num_levels": 1000},
    "linear": {"kind": "linear_beta", "beta_min": 1e-4, "beta_max": 0.02, "num_levels": 1000},
    "cosine": {"kind": "cosine"},
    "sigmoid": {"kind": "sigmoid"},
    "vp": {"kind": "vp"},
    "log_linear": {"kind": "log_linear", "gamma_min": -13.3, "gamma_max": 5.0},
}


def _system(axes: Axes) -> dict[str, Any]:
    schedule = axes["schedule"]
    process = {
        "kind": "spectral",
        "basis": axes["basis"],
        "centre": axes["centre"],
        "prior": "standard",
        "schedule": _NAMED_SCHEDULES.get(schedule, {"kind": schedule}) if isinstance(schedule, str) else schedule,
    }
    objective = {"kind": "denoising", "loss": axes["loss"], "weighting": axes["weighting"]}
    return {"process": process, "prediction": axes["prediction"], "objective": objective}


DDPM = Baseline(
    name="ddpm",
    summary="Denoising diffusion with one scalar schedule (Ho et al. 2020).",
    axes={
        "degradation": "noise",
        "schedule": "cosine",
        "prediction": "eps",
        "basis": "pixel",
        "centre": "grey",
        "loss": "mse",
        "weighting": "uniform",
    },
    choices={"degradation": (("noise",), "its reverse steps are Gaussian, so the forward process has to add noise")},
    system=_system,
    samplers=({"kind": "ddim", "steps": 50}, {"kind": "ancestral", "steps": 250}),
)
