"""The ladder stage: known answers of a feature net, distances that must grow with a disturbance, and its accuracy."""

import json
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from scipy.ndimage import gaussian_filter

from pipeline.baselines.devices import placed
from pipeline.baselines.threads import single_thread
from pipeline.diffusion.randomness import NoiseStream
from pipeline.evaluate.feature_sets import joined
from pipeline.evaluate.features import Extractor, NetChoice
from pipeline.evaluate.frechet import frechet_distance
from pipeline.evaluate.statistics import FeatureStatistics
from pipeline.shards import read_split, to_float
from pipeline.store import Artifact, Attempt

STAGE = "ladder"
STAGE_VERSION = 1

LOG = logging.getLogger(__name__)

NOISE_SIGMAS = (0.1, 0.3)
BLUR_SIGMAS = (0.5, 1.0)
MAX_IMAGES = 10_000

Float32 = NDArray[np.float32]


class LadderSpec(NetChoice):
    """Whose known answers are asked for."""

    seed: NonNegativeInt = 0  # of the choice of images and of the noise


def run(spec: LadderSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Any = None) -> dict[str, Any]:
    """Write `ladder.json`, what `known_answers` returns, with `held_out_accuracy` where the net predicts the classes.

    Args:
        spec: which net.
        inputs: `dataset`; `reference.<k>` (features of the training split); `classifier` of a net that is one.
        attempt: where the file goes.
        progress: not used.

    Returns:
        The content of the file and the net.
    """
    del progress
    spec = placed(spec)
    dataset = inputs["dataset"]
    quantisation: int | None = dataset.meta["quantisation"]
    with single_thread():
        reference = joined([artifact for name, artifact in inputs.items() if name.startswith("reference.")])
        extractor = Extractor(spec, inputs)
        train, test = read_split(dataset, "train"), read_split(dataset, "test")
        chosen = NoiseStream(spec.seed).permutation(len(train), 0, "features").numpy()[:MAX_IMAGES]
        train = train.rows(chosen)
        held_out = to_float(test.images[:MAX_IMAGES], quantisation)
        answers = known_answers(
            extractor.features,
            reference=reference.statistics(),
            train=to_float(train.images, quantisation),
            test=held_out,
            labels=train.labels,
            seed=spec.seed,
        )
        if extractor.has_classes and test.labels is not None:
            logits = extractor.logits(extractor.features(held_out))
            answers["held_out_accuracy"] = held_out_accuracy(logits, test.labels[:MAX_IMAGES])
    if not answers["is_increasing"]:
        LOG.warning("known answers do not grow with the disturbance net=%s ladder=%s", spec.net, answers["ladder"])
    attempt.path("ladder.json").write_text(json.dumps(answers, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return {"net": spec.net, "net_sha256": extractor.sha256, **answers}


def known_answers(
    features: Callable[[Float32], Float32],
    *,
    reference: FeatureStatistics,
    train: Float32,
    test: Float32,
    labels: NDArray[np.int64] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Distances to the reference of the test split and of disturbed training images.

    Args:
        features: the net, float data (n, *shape) in [-1, 1] -> (n, dim).
        reference: statistics of the whole training split.
        train: training data in random order; the first 10 000 are disturbed.
        test: test data.
        labels: classes of `train`; without them no class can be left out.
        seed: of the noise.

    Returns:
        `ladder`: distance by name, and `is_increasing`: whether every family of disturbances grows from the
        undisturbed images on.
    """
    x = train[:MAX_IMAGES]

    def distance(images: Float32) -> float:
        return frechet_distance(FeatureStatistics.of(features(images)), reference)

    clean = distance(x)
    ladder = {"test": distance(test), "train": clean}
    families = [_noisy(x, seed)]
    if x.ndim == 4:
        families.append({f"blur_{s}": _blurred(x, s) for s in BLUR_SIGMAS})
    if labels is not None:
        families.append(_without_classes(x, labels[:MAX_IMAGES]))
    is_increasing = True
    for family in families:
        steps = {name: distance(images) for name, images in family.items()}
        ladder |= steps
        is_increasing &= all(weak < strong for weak, strong in pairwise([clean, *steps.values()]))
    return {"ladder": ladder, "is_increasing": is_increasing}


def held_out_accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of test images whose largest logit is their class."""
    return float((logits.argmax(axis=1) == labels).mean())


def _blurred(x: Float32, sigma: float) -> Float32:
    return np.asarray(gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest"), np.float32)


def _noisy(x: Float32, seed: int) -> dict[str, Float32]:
    eps = NoiseStream(seed).normal(range(len(x)), 0, "ladder", x.shape[1:]).numpy()
    return {f"noise_{sigma}": x + np.float32(sigma) * eps for sigma in NOISE_SIGMAS}


def _without_classes(x: Float32, labels: NDArray[np.int64]) -> dict[str, Float32]:
    classes = np.unique(labels)
    if len(classes) < 3:
        return {}
    return {f"{word}_missing": x[~np.isin(labels, classes[:n])] for n, word in ((1, "one_class"), (2, "two_classes"))}
