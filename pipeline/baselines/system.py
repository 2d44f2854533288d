"""A published system as a combination of four seams: process, prediction, network and objective."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, model_validator
from safetensors.torch import load_file
from torch import nn

from pipeline.config import ConfigError, Spec, neutral, parse, union
from pipeline.diffusion.objectives import OBJECTIVES
from pipeline.diffusion.objectives.base import ENCODER, Objective
from pipeline.diffusion.predictor import Precondition, Predictor
from pipeline.diffusion.processes import PROCESSES, Process, SpectralProcess, build_process
from pipeline.diffusion.statistics import Statistics
from pipeline.networks import NETWORKS, OraclePredictor
from pipeline.store import Artifact

DENOISER = "network"
"""Name of the network that a predictor calls; objectives with more networks add their own names."""


class StartSpec(Spec):
    """Where x_T comes from when the process does not end in its Gaussian prior.

    Attributes:
        source: `fitted`: the distribution of D(x_0, T) over the training set, one flat colour per image or the centre;
            `training_images`: D(x_0, T) of a training image.
        noise: standard deviation of symmetry-breaking noise, on the [-1, 1] scale.
    """

    source: Literal["fitted", "training_images"]
    noise: NonNegativeFloat = 0.0


class SystemSpec(Spec):
    """What is trained. `process` is absent for networks that learn no reverse process (a classifier).

    A network without weights (`oracle`) is the exact predictor of Gaussian data: nothing is trained.
    """

    process: union(PROCESSES) | None
    prediction: Literal["eps", "x0", "v", "score", "x_prev"] = "eps"
    objective: union(OBJECTIVES)
    network: union(NETWORKS)
    class_conditional: bool = False
    start: StartSpec | None = neutral(None)  # where x_T comes from; null is the Gaussian prior of the process

    @model_validator(mode="after")
    def _untrained_is_exact(self) -> "SystemSpec":
        schedule = getattr(self.process, "schedule", None)
        has_answer = schedule is not None and not getattr(schedule, "is_degradation", False)
        if not self.network.is_trained and (not has_answer or self.class_conditional):
            raise ValueError(
                f"network: {self.network.kind} is exact for Gaussian noise on data without classes; "
                "a degradation, a classifier and class_conditional: true need a network that is trained"
            )
        return self


@dataclass(frozen=True)
class System:
    """The built seams of one `SystemSpec` on one data set; `networks` is empty where nothing is trained."""

    spec: SystemSpec
    process: Process | None
    precondition: Precondition | None
    networks: dict[str, nn.Module]
    objective: Objective


def build_system(
    spec: SystemSpec | Mapping[str, Any],
    *,
    shape: tuple[int, ...],
    num_classes: int | None,
    statistics: Statistics | None,
    seed: int = 0,
) -> System:
    """Build process, networks and objective.

    Args:
        spec: the system.
        shape: (C, H, W) or (D,) of one data point.
        num_classes: classes of the data set, or None when it has no labels.
        statistics: data statistics in the process's basis, or None when nothing needs them.
        seed: of the initial weights.

    Raises:
        ConfigError: the system does not fit the data (for example a class-conditional network without labels).
    """
    checked: SystemSpec = parse(SystemSpec, spec, "system")
    process = None if checked.process is None else build_process(checked.process, shape, statistics)
    precondition = None if process is None else Precondition(process, checked.prediction)
    needs_classes = checked.class_conditional or process is None
    objective = checked.objective.build(precondition)
    if not checked.network.is_trained:
        return System(checked, process, precondition, {}, objective)
    num_latents: int | None = checked.objective.num_latents
    network = checked.network.build(
        shape,
        num_classes if needs_classes else None,
        int(np.prod(shape)),
        seed=seed,
        num_times=checked.objective.num_times if process is not None and process.is_degradation else 0,
        latent_dim=num_latents,
        **_family_reading(checked, process),
    )
    networks: dict[str, nn.Module] = {DENOISER: network}
    if num_latents is not None:
        networks[ENCODER] = checked.network.encoder(shape, num_latents, seed=seed)
    return System(checked, process, precondition, networks, objective)


def _family_reading(spec: SystemSpec, process: Process | None) -> dict[str, Any]:
    """What a network of many schedules reads of gamma: bands by falling variance, and a map of pixel levels."""
    if getattr(spec.objective, "amortise", None) is None or not isinstance(process, SpectralProcess):
        return {}
    assert process.variances is not None
    order = torch.argsort(process.variances, descending=True, stable=True)
    return {"band_order": order, "has_map": process.basis.name == "pixel"}


def read_statistics(artifact: Artifact, basis: str) -> Statistics:
    """Data statistics from a statistics artifact: mean and variances in the components of `basis`.

    The covariance (or, for data too large for one, the per-basis variances) already holds the additive floor.

    Raises:
        ConfigError: the data are too large for a covariance and the basis needs one.
    """
    with np.load(artifact.path("statistics.npz"), allow_pickle=False) as arrays:
        if f"variances_{basis}" not in arrays:
            raise ConfigError(
                f"basis {basis}: the data have {len(arrays['mean'])} dimensions, too many for a covariance; "
                "use dct, haar, fourier or pixel"
            )
        mean = torch.from_numpy(arrays["mean"])
        variances = torch.from_numpy(arrays[f"variances_{basis}"])
        components = torch.from_numpy(arrays["pca_components"]) if basis == "pca" else None
    return Statistics(mean=mean, variances=variances, components=components)


def _statistics_for(process: Spec, artifact: Artifact, shape: tuple[int, ...]) -> Statistics | None:
    """Data statistics in the process's basis; None for a basis that the artifact does not list, without covariance.

    The bases of single degradations (colour, haar_dct) are worked out from the covariance. Their processes need no
    statistics; preconditioning then takes unit variances.
    """
    basis = str(getattr(process, "basis", "pixel"))
    with np.load(artifact.path("statistics.npz"), allow_pickle=False) as arrays:
        if f"variances_{basis}" in arrays or basis == "pca":
            return read_statistics(artifact, basis)
        if "covariance" not in arrays:
            return None
        mean, covariance = (torch.from_numpy(arrays[name]) for name in ("mean", "covariance"))
    return Statistics.from_moments(mean, covariance, basis, shape=shape, quantisation=None)


def process_for(spec: SystemSpec, dataset: Mapping[str, Any], statistics: Artifact | None) -> Process:
    """The forward process of a system alone, from artifact metadata; no network is built."""
    assert spec.process is not None
    shape = tuple(dataset["shape"])
    data = None if statistics is None else _statistics_for(spec.process, statistics, shape)
    return build_process(spec.process, shape, data)


def system_for(spec: SystemSpec, dataset: Mapping[str, Any], statistics: Artifact | None, *, seed: int = 0) -> System:
    """Build a system from artifact metadata: `dataset` is the metadata of an ingest artifact."""
    shape, num_classes = tuple(dataset["shape"]), dataset["num_classes"]
    data = None
    if statistics is not None and spec.process is not None:
        data = _statistics_for(spec.process, statistics, shape)
    return build_system(spec, shape=shape, num_classes=num_classes, statistics=data, seed=seed)


def load_predictor(
    spec: SystemSpec, *, model: Artifact | None, dataset: Artifact, statistics: Artifact | None, device: str = "cpu"
) -> Predictor:
    """The predictor of a system: with the averaged (EMA) weights of `model`, in evaluation mode, or the exact one.

    Raises:
        ConfigError: an exact predictor without the statistics that it needs.
    """
    if not spec.network.is_trained:
        return OraclePredictor(process_for(spec, dataset.meta, statistics), device=device)
    system = system_for(spec, dataset.meta, statistics)
    assert system.process is not None
    assert model is not None
    network = _with_weights(system.networks[DENOISER], model, device)
    return Predictor(network, system.process, spec.prediction)


def load_encoder(
    spec: SystemSpec, *, model: Artifact, dataset: Artifact, statistics: Artifact | None, device: str = "cpu"
) -> nn.Module:
    """The encoder of a trained variational system, averaged weights: `(pair, t, time_to) -> (mean, log variance)`.

    Raises:
        ConfigError: the system has no latent code.
    """
    networks = system_for(spec, dataset.meta, statistics).networks
    if ENCODER not in networks:
        raise ConfigError("this system has no latent code and no encoder; use variational, vcd or vwd")
    return _with_weights(networks[ENCODER], model, device, prefix=f"{ENCODER}.")


def load_classifier(spec: SystemSpec, *, model: Artifact, dataset: Artifact, device: str = "cpu") -> nn.Module:
    """The feature classifier of a data set, in evaluation mode."""
    return _with_weights(system_for(spec, dataset.meta, None).networks[DENOISER], model, device)


def _with_weights(network: nn.Module, model: Artifact, device: str, *, prefix: str = "") -> nn.Module:
    network.load_state_dict(load_file(model.path(f"{prefix}ema.safetensors")))
    return network.to(device).eval().requires_grad_(False)
