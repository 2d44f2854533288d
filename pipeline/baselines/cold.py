"""Cold diffusion (Bansal et al. 2023): the clean image from any level of a degradation, degraded again."""

from typing import Any

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.degraded import degradation_of, process_of, start_of, terminal_of
from pipeline.baselines.noise_schedules import levels_refusal, noise_schedule

SYMMETRY_NOISE = 0.004
"""Noise on x_T that breaks the symmetry of flat images, on the [-1, 1] scale."""


def symmetry_noise(axes: Axes) -> float:
    """Noise of x_T: as asked, else that of training, else the published broken symmetry."""
    if axes["start_noise"] is not None:
        return axes["start_noise"]
    return axes.get("noise") or SYMMETRY_NOISE


def _system(axes: Axes) -> dict[str, Any]:
    objective = {"kind": "cold", "loss": axes["loss"]}
    if axes["degradation"] == "noise":
        schedule = noise_schedule(axes["schedule"], axes["num_levels"])
        process = {"kind": "spectral", "basis": "pixel", "schedule": schedule}
        return {"process": process, "prediction": axes["prediction"], "objective": objective}
    return {
        "process": process_of(axes, noise=axes["noise"]),
        "prediction": axes["prediction"],
        "objective": objective,
        "start": start_of(axes, symmetry_noise(axes)),
    }


def _refusal(axes: Axes) -> str | None:
    name, _ = degradation_of(axes)
    if name == "blurring":
        return "cold cannot take degradation = blurring: its noise is part of a Gaussian process; use ddpm"
    if name == "noise":
        return levels_refusal(axes["schedule"], axes["num_levels"])
    return degenerate(axes, symmetry_noise(axes))


def degenerate(axes: Axes, noise: float) -> str | None:
    """Why one x_T for all images is refused, or None."""
    if noise == 0 and terminal_of(axes) == "zero":
        name, _ = degradation_of(axes)
        return (
            f"{name} ends in one image for all: without symmetry-breaking noise every sample is the same; "
            "set start_noise above 0"
        )
    return None


COLD = Baseline(
    name="cold",
    summary="Cold diffusion: the clean image from any level, degraded to the next (Bansal et al. 2023).",
    axes={
        "degradation": "blur",
        "num_levels": 20,
        "noise": 0.0,
        "start_noise": None,
        "schedule": "cosine",
        "prediction": "x0",
        "loss": "l1",
    },
    choices={"prediction": (("x0",), "its sampler degrades a predicted clean image")},
    needs={"schedule": ("degradation", "noise")},
    refusal=_refusal,
    system=_system,
    samplers=({"kind": "cold", "rho": 1.0},),
)
