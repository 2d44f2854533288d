"""A small data set of bright squares as artifacts, and stages run on it without a grid."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.baselines.system import DENOISER, SystemSpec, build_system
from pipeline.config import Spec, parse
from pipeline.diffusion.bases import BASES
from pipeline.diffusion.statistics import Statistics
from pipeline.shards import ShardWriter, dequantise
from pipeline.shards.writer import SAMPLES_PER_BLOCK
from pipeline.store import Artifact, Attempt, Key, Store, fingerprint

SHAPE = (1, 4, 4)
LEVELS = 17
NUM_CLASSES = 4

DDIM = {"kind": "ddim", "steps": 6}


def system(**changes: Any) -> SystemSpec:
    """A diffusion in PCA components with a small MLP."""
    tree = {
        "process": {
            "kind": "spectral",
            "basis": "pca",
            "centre": "mean",
            "prior": "standard",
            "schedule": {"kind": "log_linear", "gamma_min": -8.0, "gamma_max": 8.0},
        },
        "prediction": "eps",
        "objective": {"kind": "denoising"},
        "network": {"kind": "mlp", "width": 16, "depth": 1},
    }
    return parse(SystemSpec, tree | changes)


def classifier() -> SystemSpec:
    """A classifier of 8 features."""
    network = {"kind": "classifier", "width": 8, "features": 8}
    return parse(SystemSpec, {"process": None, "objective": {"kind": "classification"}, "network": network})


def images(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Levels (count, 1, 4, 4) of 17: one bright quadrant per class on noise; and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, count)
    levels = rng.integers(5, 9, (count, *SHAPE))  # far from both ends, so that hardly a Gaussian draw is clipped
    for quadrant in range(NUM_CLASSES):
        rows, columns = slice(quadrant // 2 * 2, quadrant // 2 * 2 + 2), slice(quadrant % 2 * 2, quadrant % 2 * 2 + 2)
        levels[labels == quadrant, :, rows, columns] += 4
    return levels.astype(np.uint8), labels.astype(np.int64)


def committed(
    store: Store, stage: str, write: Callable[[Attempt], dict[str, Any]], *, identity: Any, **inputs: Artifact
) -> Artifact:
    """The artifact of a stage, made by `write`, or found."""
    keys = {role: artifact.key for role, artifact in inputs.items()}
    key = Key(stage, fingerprint(stage, 1, identity, keys))
    found = store.find(key)
    if found is not None:
        return found
    with store.attempt(key, identity=identity, inputs=keys) as attempt:
        return attempt.commit(meta=write(attempt))


def made(store: Store, stage: ModuleType, spec: Spec, inputs: dict[str, Artifact]) -> Artifact:
    """The artifact of a stage module."""
    roles = {role.replace(".", "_"): artifact for role, artifact in inputs.items()}
    return committed(
        store, stage.STAGE, lambda attempt: stage.run(spec, inputs, attempt), identity=spec.identity(), **roles
    )


def dataset(store: Store, *, num_train: int = 400, num_test: int = 90) -> Artifact:
    """The squares as an ingest artifact."""

    def write(attempt: Attempt) -> dict[str, Any]:
        splits = {}
        for seed, (split, count) in enumerate((("train", num_train), ("test", num_test))):
            levels, labels = images(count, seed=seed)
            with ShardWriter(attempt.path, split) as writer:
                writer.write(levels, labels)
            splits[split] = {"count": count, "shards": [entry.to_json() for entry in writer.entries]}
        return {
            "name": "squares",
            "shape": list(SHAPE),
            "quantisation": LEVELS,
            "num_classes": NUM_CLASSES,
            "class_names": [str(label) for label in range(NUM_CLASSES)],
            "samples_per_block": SAMPLES_PER_BLOCK,
            "splits": splits,
        }

    return committed(store, "ingest", write, identity={"squares": [num_train, num_test]})


def train_statistics(num_train: int = 400) -> Statistics:
    """PCA statistics of the training squares."""
    levels, _ = images(num_train)
    u = np.random.default_rng(3).random(levels.shape, dtype=np.float32)
    return Statistics.of(torch.from_numpy(dequantise(levels, LEVELS, u)), "pca", None)


def statistics(store: Store) -> Artifact:
    """The statistics artifact of the training squares."""

    def write(attempt: Attempt) -> dict[str, Any]:
        fitted = train_statistics()
        assert fitted.components is not None
        variances = {f"variances_{name}": fitted.variances.numpy() for name in BASES}
        np.savez(
            attempt.path("statistics.npz"),
            mean=fitted.mean.numpy(),
            pca_components=fitted.components.numpy(),
            **variances,
        )
        return {"count": 400}

    return committed(store, "statistics", write, identity={"squares": 400})


def training(
    store: Store, spec: SystemSpec, *, change: Callable[[torch.Tensor], torch.Tensor] = lambda w: w, name: str = ""
) -> Artifact:
    """A training artifact whose weights are the initial ones, each passed through `change`."""

    def write(attempt: Attempt) -> dict[str, Any]:
        num_classes = NUM_CLASSES
        built = build_system(spec, shape=SHAPE, num_classes=num_classes, statistics=train_statistics())
        weights = {key: change(value).contiguous() for key, value in built.networks[DENOISER].state_dict().items()}
        save_file(weights, attempt.path("ema.safetensors"))
        return {"steps": 0}

    return committed(store, "train", write, identity={"system": spec.identity(), "change": name})
