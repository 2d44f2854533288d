"""Generation with unified diffusion (arXiv 2410.02667): a basis, a prior, and component-wise linear schedules."""

from typing import Any

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.noise_schedules import noise_schedule
from pipeline.config import parse
from pipeline.diffusion.objectives import AmortiseSpec

_SCHEDULE_AXES = ("softness_a", "ordering", "ordering_r", "log_snr_data", "log_snr_prior", "clip")


def _system(axes: Axes) -> dict[str, Any]:
    schedule: Any = axes["schedule"]
    if schedule == "gud":
        schedule = {"kind": "gud", **{name: axes[name] for name in _SCHEDULE_AXES}}
    else:
        schedule = noise_schedule(schedule)
    process = {
        "kind": "spectral",
        "basis": axes["basis"],
        "centre": axes["centre"],
        "prior": axes["prior"],
        "schedule": schedule,
    }
    objective = {"kind": "denoising", "loss": axes["loss"], "weighting": axes["weighting"]}
    if axes["amortise"] is not None:
        objective["amortise"] = axes["amortise"]
    return {"process": process, "prediction": axes["prediction"], "objective": objective}


def _refusal(axes: Axes) -> str | None:
    """Points that the network was not trained for are refused, unless they are asked for on purpose."""
    if axes["amortise"] is None:
        return "extrapolate means something only with amortise" if axes["extrapolate"] else None
    box: AmortiseSpec = parse(AmortiseSpec, axes["amortise"], "amortise")
    outside = box.outside(axes)
    if outside is None or axes["extrapolate"]:
        return None
    return f"{outside}; widen amortise, or set extrapolate: true to evaluate there all the same"


GUD = Baseline(
    name="gud",
    summary="Unified diffusion: basis, prior, softness and ordering of component-wise schedules (arXiv 2410.02667).",
    axes={
        "degradation": "noise",
        "basis": "pca",
        "prior": "standard",
        "schedule": "gud",
        "softness_a": 1.0,
        "ordering": "variance",
        "ordering_r": 0.0,
        "log_snr_data": 7.0,
        "log_snr_prior": -7.0,
        "clip": False,
        "amortise": None,
        "extrapolate": False,
        "centre": "mean",
        "prediction": "eps",
        "loss": "mse",
        "weighting": "uniform",
    },
    choices={
        "degradation": (("noise",), "its forward process is Gaussian in every component"),
        "prediction": (("eps", "x0", "v", "score"), "its reverse steps need x_0 and noise"),
    },
    needs=dict.fromkeys((*_SCHEDULE_AXES, "amortise", "extrapolate"), ("schedule", "gud")),
    refusal=_refusal,
    system=_system,
    samplers=({"kind": "ddim", "steps": 50},),
)
