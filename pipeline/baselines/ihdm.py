"""Inverse heat dissipation (Rissanen, Heinonen & Solin 2023): the previous, less degraded level, with noise."""

from typing import Any

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.degraded import deterministic, process_of

DELTA_RATIO = 1.25
"""Sampling noise over training noise of the paper, section 4."""


def _delta(axes: Axes) -> float:
    return DELTA_RATIO * axes["noise"] if axes["delta"] is None else axes["delta"]


def _system(axes: Axes) -> dict[str, Any]:
    return {
        "process": process_of(axes, noise=axes["noise"]),
        "prediction": axes["prediction"],
        "objective": {"kind": "sequential"},
        "start": {"source": "training_images", "noise": _delta(axes)},
    }


def _refusal(axes: Axes) -> str | None:
    return deterministic("ihdm", axes, why="the noise level is the degradation already")


IHDM = Baseline(
    name="ihdm",
    summary="Inverse heat dissipation: the previous level with training and sampling noise (Rissanen et al. 2023).",
    axes={
        "degradation": "blur",
        "num_levels": 200,
        "noise": 0.02,
        "delta": None,
        "prediction": "x_prev",
    },
    choices={"prediction": (("x_prev",), "its loss and its sampler are stated for the previous level")},
    refusal=_refusal,
    system=_system,
    samplers=lambda axes: ({"kind": "previous", "delta": _delta(axes)},),
    likelihood=lambda axes: {"kind": "ihdm_bound", "delta": _delta(axes)},
)
