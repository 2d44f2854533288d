"""A published system as a combination of four seams: process, prediction, network and objective."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.config import ConfigError, Spec, parse, union
from pipeline.diffusion.objectives import OBJECTIVES
from pipeline.diffusion.objectives.base import Objective
from pipeline.diffusion.predictor import Precondition, Predictor
from pipeline.diffusion.processes import PROCESSES, Process, build_process
from pipeline.diffusion.statistics import Statistics
from pipeline.networks import NETWORKS
from pipeline.store import Artifact

DENOISER = "network"
"""Name of the network that a predictor calls; objectives with more networks add their own names."""


class SystemSpec(Spec):
    """What is trained. `process` is absent for networks that learn no reverse process (a classifier)."""

    process: union(PROCESSES) | None
    prediction: Literal["eps", "x0", "v", "score"] = "eps"
    objective: union(OBJECTIVES)
    network: union(NETWORKS)
    class_conditional: bool = False


@dataclass(frozen=True)
class System:
    """The built seams of one `SystemSpec` on one data set."""

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
    network = checked.network.build(shape, num_classes if needs_classes else None, int(np.prod(shape)), seed=seed)
    objective = checked.objective.build(precondition)
    return System(checked, process, precondition, {DENOISER: network}, objective)


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


def system_for(spec: SystemSpec, dataset: Mapping[str, Any], statistics: Artifact | None, *, seed: int = 0) -> System:
    """Build a system from artifact metadata: `dataset` is the metadata of an ingest artifact."""
    data = None
    if statistics is not None and spec.process is not None:
        data = read_statistics(statistics, spec.process.basis)
    shape, num_classes = tuple(dataset["shape"]), dataset["num_classes"]
    return build_system(spec, shape=shape, num_classes=num_classes, statistics=data, seed=seed)


def load_predictor(
    spec: SystemSpec, *, model: Artifact, dataset: Artifact, statistics: Artifact | None, device: str = "cpu"
) -> Predictor:
    """The predictor of a trained system, with the averaged (EMA) weights, in evaluation mode."""
    system = system_for(spec, dataset.meta, statistics)
    assert system.process is not None
    network = _with_weights(system.networks[DENOISER], model, device)
    return Predictor(network, system.process, spec.prediction)


def load_classifier(spec: SystemSpec, *, model: Artifact, dataset: Artifact, device: str = "cpu") -> nn.Module:
    """The feature classifier of a data set, in evaluation mode."""
    return _with_weights(system_for(spec, dataset.meta, None).networks[DENOISER], model, device)


def _with_weights(network: nn.Module, model: Artifact, device: str) -> nn.Module:
    network.load_state_dict(load_file(model.path("ema.safetensors")))
    return network.to(device).eval().requires_grad_(False)
