"""Variational Cold Diffusion and its forms without encoder, jitter or rollout: each predicts the previous level."""

from typing import Any

from pipeline.baselines.base import Axes, Baseline
from pipeline.baselines.cold import degenerate, symmetry_noise
from pipeline.baselines.degraded import deterministic, process_of, start_of

_X_PREV = {"prediction": (("x_prev",), "its sampler steps to a predicted previous level")}

_LEVELS: dict[str, Any] = {"degradation": "black_blur", "num_levels": 6, "prediction": "x_prev", "stride": 1}

_LATENT: dict[str, Any] = {
    **_LEVELS,
    "latent_dim": 128,
    "beta": 0.016,
    "kl_annealing": 0,
    "start_noise": 0.0,
}

_SEQUENTIAL_ONLY = "its levels are without noise, which would drown what the latent code says"


def _sequential(axes: Axes) -> dict[str, Any]:
    return {
        "process": process_of(axes),
        "prediction": axes["prediction"],
        "objective": {"kind": "sequential", "stride": axes["stride"]},
        "start": start_of(axes, symmetry_noise(axes)),
    }


def _sequential_refusal(axes: Axes) -> str | None:
    return deterministic("sequential", axes, why="its levels have no noise") or degenerate(axes, symmetry_noise(axes))


def _variational(axes: Axes) -> dict[str, Any]:
    objective = {"kind": "variational_cold"}
    objective |= {name: axes[name] for name in ("latent_dim", "beta", "kl_annealing", "stride")}
    objective |= {"jitter": axes.get("jitter", 0.0), "rollout": axes.get("rollout", False)}
    if "teacher_from" in axes:
        objective |= {"teacher_from": axes["teacher_from"]}
    return {
        "process": process_of(axes),
        "prediction": axes["prediction"],
        "objective": objective,
        "start": start_of(axes, axes["start_noise"]),
    }


def _refusal(name: str) -> Any:
    def refusal(axes: Axes) -> str | None:
        reason = deterministic(name, axes, why=_SEQUENTIAL_ONLY)
        if reason is not None:
            return reason
        if axes["latent_dim"] < 1:
            return f"{name} needs its encoder: latent_dim must be at least 1; without a code use sequential"
        if axes.get("rollout") and axes["num_levels"] < 2:
            return f"{name} trains on its own earlier steps: with num_levels = 1 there are none; use at least 2"
        if axes.get("rollout") and axes["jitter"] > 0 and not axes["combine"]:
            return "rollout and jitter together are not studied; state combine: true to have both"
        return None

    return refusal


SEQUENTIAL = Baseline(
    name="sequential",
    summary="The previous level of a degradation, without noise and without encoder.",
    axes={**_LEVELS, "start_noise": None},
    choices=_X_PREV,
    refusal=_sequential_refusal,
    system=_sequential,
    samplers=lambda axes: ({"kind": "previous", "stride": axes["stride"]},),
)

VARIATIONAL = Baseline(
    name="variational",
    summary="Sequential with an encoder: a latent code says which of the possible previous levels it is.",
    axes=_LATENT,
    choices=_X_PREV,
    refusal=_refusal("variational"),
    system=_variational,
    samplers=lambda axes: ({"kind": "previous", "stride": axes["stride"]},),
)

VWD = Baseline(
    name="vwd",
    summary="Variational warm diffusion: variational, with noise on the network's input in training.",
    axes={**_LATENT, "jitter": 0.004},
    choices=_X_PREV,
    refusal=_refusal("vwd"),
    system=_variational,
    samplers=VARIATIONAL.samplers,
)

VCD = Baseline(
    name="vcd",
    summary="Variational cold diffusion: variational, trained on the states that an average of itself steps to.",
    axes={**_LATENT, "rollout": True, "teacher_from": 500, "jitter": 0.0, "combine": False},
    choices={**_X_PREV, "rollout": ((True,), "without it this is variational")},
    refusal=_refusal("vcd"),
    system=_variational,
    samplers=VARIATIONAL.samplers,
)
