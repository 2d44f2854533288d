"""The likelihood stage: log density of held-out images, image by image."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator

from pipeline.baselines.devices import DEVICE_PATTERN, placed
from pipeline.baselines.start import terminal_of
from pipeline.baselines.system import SystemSpec, load_predictor, read_statistics
from pipeline.baselines.threads import single_thread
from pipeline.config import ConfigError, Spec, runtime, union
from pipeline.diffusion.likelihoods import (
    LIKELIHOODS,
    Elbo,
    ElboSpec,
    IhdmBoundSpec,
    LevelBound,
    LogLikelihood,
    Vlb,
    VlbSpec,
    log_likelihood,
)
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes import Process, diagonal
from pipeline.diffusion.randomness import NoiseStream
from pipeline.evaluate.gaussian import gaussian_log_density
from pipeline.shards import LabelledImages, dequantise, read_split
from pipeline.store import Artifact, Attempt

STAGE = "likelihood"
STAGE_VERSION = 1

if TYPE_CHECKING:
    LikelihoodUnion = Any
else:
    LikelihoodUnion = union(LIKELIHOODS)

Progress = Callable[[int, int], None]

NO_LEVELS = "data that are no levels have a density, not a probability; ask for nll or elbo"

BOUND_TERMS = ("diffusion", "prior_kl", "reconstruction")
"""Terms of a bound over time, nats per image, that a block keeps beside it."""

BOUNDS = (ElboSpec, VlbSpec)
"""Bounds that have those terms: of the density of dequantised images, and of the probability of their levels."""


class LikelihoodBlock(Spec):
    """Held-out images [block * block_size, (block + 1) * block_size) of a split, as far as it reaches."""

    system: SystemSpec | Literal["gaussian", "test_split", "mean_image"]
    likelihood: LikelihoodUnion | None = None  # None for the control rows
    split: Literal["train", "test"] = "test"
    block: NonNegativeInt = 0
    block_size: PositiveInt = 1000
    seed: NonNegativeInt = 0  # of the dequantisation
    batch_shape: PositiveInt = 125
    device: str = runtime("auto", pattern=DEVICE_PATTERN)

    @model_validator(mode="after")
    def _fits_together(self) -> "LikelihoodBlock":
        is_control = isinstance(self.system, str)
        if is_control != (self.likelihood is None):
            raise ValueError("likelihood: a trained system needs one, a control row takes none")
        return self


def absent_reason(system: SystemSpec | str) -> str | None:
    """Why a system has no density, in one sentence; None where it has one."""
    if system == "test_split":
        return "images of the data set are no model and have no density"
    if system == "mean_image":
        return "one image for all has no density"
    if not isinstance(system, SystemSpec):
        return None
    if system.process is None:
        return "a network without a reverse process has no density"
    if system.objective.no_density is not None:
        return system.objective.no_density
    levels = getattr(system.process, "schedule", system.process)
    if getattr(levels, "noise", None) == 0:
        return "the levels are deterministic: given the image each is a point, which has no density"
    return None


def elbo_absent_reason(system: SystemSpec | str) -> str | None:
    """Why a system has no continuous bound, in one sentence; None where it has one."""
    reason = absent_reason(system)
    if reason is not None or not isinstance(system, SystemSpec):
        return reason or "the density of the control row is known exactly and needs no bound"
    assert system.process is not None
    schedule = getattr(system.process, "schedule", None)
    if getattr(schedule, "is_degradation", system.process.kind != "spectral"):
        return "the levels of a degradation are discrete: their bound is no integral over time"
    return None


def vlb_absent_reason(system: SystemSpec | str, bound: VlbSpec) -> str | None:
    """Why a system has no such bound of the probability of levels, in one sentence; None where it has one."""
    if system == "gaussian":
        return "the control row is a density, which gives levels no probability"
    reason = elbo_absent_reason(system)
    if reason is not None or not isinstance(system, SystemSpec):
        return reason
    schedule = getattr(system.process, "schedule", None)
    if bound.decoder == "discretised_gaussian" and (bound.num_levels or getattr(schedule, "num_levels", None)) is None:
        return "decoder discretised_gaussian needs a chain: give vlb.num_levels, or a schedule with num_levels"
    return None


def run(
    spec: LikelihoodBlock, inputs: dict[str, Artifact], attempt: Attempt, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write `likelihood.npz`: index (n,), nats (n,) and bits_per_dim (n,), or, without a density, its reason.

    An ELBO or VLB adds its terms diffusion, prior_kl and reconstruction, (n,) nats each, -nats in sum. A VLB is of
    levels: nothing is dequantised, and bits_per_dim is its nats in other units.

    Args:
        spec: which system on which images.
        inputs: `dataset`; `statistics`; for a trained system also `model` (an oracle has none), and `terminal` where
            x_T is fitted.
        attempt: where the file goes.
        progress: called with images done and images in all.

    Returns:
        Counts, evaluations per image and `absent`: None or the sentence why there is no density. For a bound also the
        draws it was made with, and what `noise_ends` says of the process.
    """
    spec = placed(spec)
    meta: dict[str, Any] = {"split": spec.split, "seed": spec.seed, "num_probes": 0, "nfe": 0, "count": 0}
    quantisation: int | None = inputs["dataset"].meta["quantisation"]
    is_of_levels = isinstance(spec.likelihood, VlbSpec)
    if isinstance(spec.likelihood, VlbSpec):
        reason = vlb_absent_reason(spec.system, spec.likelihood) or (NO_LEVELS if quantisation is None else None)
    else:
        is_elbo = isinstance(spec.likelihood, ElboSpec)
        reason = elbo_absent_reason(spec.system) if is_elbo else absent_reason(spec.system)
    if reason is not None:
        return {**meta, "absent": reason}
    first = spec.block * spec.block_size
    images = read_split(inputs["dataset"], spec.split).rows(slice(first, first + spec.block_size))
    with single_thread():
        if spec.system == "gaussian":
            nats, terms = _gaussian(spec, inputs, images), {}
        else:
            nats, terms, measured = _scored(spec, inputs, images, progress)
            meta |= measured
    if not np.isfinite(nats).all():
        raise RuntimeError(f"{int((~np.isfinite(nats)).sum())} of {len(nats)} log densities are not finite")
    dim = math.prod(images.images.shape[1:])
    bits = -nats / (dim * math.log(2.0))
    if quantisation is not None and not is_of_levels:
        bits += math.log2(quantisation / 2.0)
    np.savez(
        attempt.path("likelihood.npz"), allow_pickle=False, index=images.index, nats=nats, bits_per_dim=bits, **terms
    )
    progress(len(nats), len(nats))
    kind = None if spec.likelihood is None else spec.likelihood.kind
    return {**meta, "count": len(nats), "absent": None, "kind": kind}


def noise_ends(process: Process) -> dict[str, float | None]:
    """What the noise levels of a process span; None where one is infinite.

    `delta_gamma`: largest gamma_i(1) - gamma_i(0); `log_snr_data`: smallest log SNR at t = 0; `log_snr_prior`: largest
    log SNR at t = 1.
    """
    first, last = (diagonal(process).marginal(t) for t in (0.0, 1.0))
    ends = {
        "delta_gamma": float((last.gamma - first.gamma).max()),
        "log_snr_data": float(first.log_snr.min()),
        "log_snr_prior": float(last.log_snr.max()),
    }
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}


def _batch(spec: LikelihoodBlock, images: LabelledImages, start: int, quantisation: int | None) -> torch.Tensor:
    """Images of one batch, float64: dequantised with noise that is a function of (seed, i) alone, or bin centres."""
    part = images.rows(slice(start, start + spec.batch_shape))
    if isinstance(spec.likelihood, VlbSpec):
        return torch.from_numpy(
            dequantise(part.images, quantisation, np.full(part.images.shape, 0.5, np.float32))
        ).double()
    u = NoiseStream(spec.seed).uniform(part.index.tolist(), 0, "dequantise", part.images.shape[1:]).float().numpy()
    return torch.from_numpy(dequantise(part.images, quantisation, u)).double()


def _gaussian(spec: LikelihoodBlock, inputs: dict[str, Artifact], images: LabelledImages) -> np.ndarray:
    statistics = read_statistics(inputs["statistics"], "pca")
    quantisation = inputs["dataset"].meta["quantisation"]
    nats = [
        gaussian_log_density(statistics, _batch(spec, images, start, quantisation).flatten(1)).numpy()
        for start in range(0, len(images), spec.batch_shape)
    ]
    return np.concatenate(nats) if nats else np.zeros(0)


def _scored(
    spec: LikelihoodBlock, inputs: dict[str, Artifact], images: LabelledImages, progress: Progress
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Nats (n,) of a trained system, the terms of a bound, and what belongs to the block's meta."""
    assert isinstance(spec.system, SystemSpec)
    assert spec.likelihood is not None
    quantisation: int | None = inputs["dataset"].meta["quantisation"]
    if spec.likelihood.quantisation not in (None, quantisation):
        raise ConfigError(
            f"likelihood.quantisation: {spec.likelihood.quantisation} levels asked, the data set has {quantisation}"
        )
    predictor = load_predictor(
        spec.system,
        model=inputs.get("model"),
        dataset=inputs["dataset"],
        statistics=inputs.get("statistics"),
        device=spec.device,
    )
    process = predictor.process
    if isinstance(spec.likelihood, IhdmBoundSpec):
        process = replace(process, terminal=terminal_of(process, spec.system.start, inputs))
    names = ("total", *(BOUND_TERMS if isinstance(spec.likelihood, BOUNDS) else ()))
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in names}
    nfe = 0
    num_times: int | None = None
    for start in range(0, len(images), spec.batch_shape):
        x = _batch(spec, images, start, quantisation)
        part = images.rows(slice(start, start + spec.batch_shape))
        terms = _terms(spec, inputs, process, predictor, x, images=part)
        for name in names:
            parts[name].append(getattr(terms, name)[: len(x)].cpu().numpy())
        nfe = terms.nfe
        num_times = getattr(terms, "num_times", None)
        progress(min(start + spec.batch_shape, len(images)), len(images))
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    if isinstance(spec.likelihood, BOUNDS):
        draws: dict[str, Any] = {"num_times": num_times, "noise_seed": spec.likelihood.seed}
        if isinstance(spec.likelihood, VlbSpec):
            keys = ("num_levels", "decoder", "variance", "num_probes", "start_noise", "clip")
            draws |= {key: getattr(spec.likelihood, key) for key in keys}
        return arrays.pop("total"), arrays, {"nfe": nfe, "dim": process.dim, **draws, **noise_ends(process)}
    return arrays.pop("total"), arrays, {"nfe": nfe, "num_probes": spec.likelihood.num_probes}


def _terms(
    spec: LikelihoodBlock,
    inputs: dict[str, Artifact],
    process: Process,
    predictor: Predictor,
    x: torch.Tensor,
    *,
    images: LabelledImages,
) -> LogLikelihood | Elbo | LevelBound | Vlb:
    """The batch is padded to `batch_shape`, so that no last bit depends on how many images are left."""
    assert isinstance(spec.system, SystemSpec)
    assert spec.likelihood is not None
    rows = np.minimum(np.arange(spec.batch_shape), len(x) - 1)
    cond = None
    if spec.system.class_conditional:
        if images.labels is None:
            raise ConfigError("a class-conditional likelihood needs labels; the data set has none")
        cond = Condition(label=torch.from_numpy(images.labels[rows]).to(spec.device))
    likelihood = spec.likelihood
    statistics = None
    if isinstance(likelihood, VlbSpec):
        likelihood = likelihood.model_copy(update={"quantisation": inputs["dataset"].meta["quantisation"]})
    if getattr(likelihood, "probe_basis", None) == "pca":
        statistics = read_statistics(inputs["statistics"], "pca")
    return log_likelihood(
        process,
        predictor,
        x[rows].to(spec.device),
        likelihood,
        indices=images.index[rows].tolist(),
        cond=cond,
        statistics=statistics,
    )
