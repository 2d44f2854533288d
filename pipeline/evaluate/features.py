"""The features stage: images reduced to mergeable statistics, a sample of feature rows, and counts of diversity."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from pipeline.baselines.devices import DEVICE_PATTERN, placed
from pipeline.baselines.system import SystemSpec, load_classifier
from pipeline.baselines.threads import single_thread
from pipeline.config import Spec, runtime
from pipeline.diffusion.randomness import NoiseStream
from pipeline.evaluate.diversity import Diversity
from pipeline.evaluate.jackknife import NUM_BLOCKS
from pipeline.evaluate.ladder import held_out_accuracy, known_answers
from pipeline.evaluate.statistics import FeatureStatistics, merged, packed
from pipeline.shards import LabelledImages, read_split, to_float
from pipeline.store import Artifact, Attempt

STAGE = "features"
STAGE_VERSION = 2
RAW_NET = "fd_data"

LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Extractor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Float images (n, *shape) in [-1, 1] to features (n, dim)."""


class FeatureNet(Protocol):
    """What a net must offer: features (n, dim) of images, and class logits (n, classes) of features."""

    def features(self, x: Tensor) -> Tensor: ...

    def logits(self, features: Tensor) -> Tensor: ...


class FeatureSpec(Spec):
    """Features of one block of images, or of a split of the data (the reference of every distance)."""

    net: str  # names the distance: fd_clf_<dataset>; fd_data takes the data themselves as features
    classifier: SystemSpec | None = None
    split: Literal["train", "test"] | None = None  # None: a block of the sample stage
    group_size: PositiveInt = 50  # images per mergeable state: the grain of the jackknife
    num_rows: NonNegativeInt = 1000  # feature rows kept for kernel and neighbour metrics
    batch_shape: PositiveInt = 250
    seed: NonNegativeInt = 0  # of the order in which a split is read, so that groups are random in class
    with_ladder: bool = False  # known answers of the net, logged with the reference
    device: str = runtime("auto", pattern=DEVICE_PATTERN)

    @model_validator(mode="after")
    def _is_named_honestly(self) -> "FeatureSpec":
        if (self.net == RAW_NET) != (self.classifier is None):
            raise ValueError(f"net {self.net}: {RAW_NET} takes no classifier, any other net needs one")
        if self.classifier is not None and not self.net.startswith("fd_clf_"):
            raise ValueError(f"net {self.net}: a classifier of our own is called fd_clf_<dataset>, never fid")
        if self.with_ladder and self.split != "train":
            raise ValueError("with_ladder: the known answers belong to the reference, split train")
        return self


def group_size(num_images: int, *, largest: int = 50) -> int:
    """Images per group for a set of this size: at most `largest`, and small enough for all jackknife blocks."""
    return min(largest, max(1, num_images // NUM_BLOCKS))


def run(
    spec: FeatureSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write `features.npz`: group statistics, first image index of every group, feature rows with their index, and the
    counts of `Diversity`.

    Args:
        spec: which net on which images.
        inputs: `dataset`; `classifier` (a training) unless the net is `fd_data`; `images` unless `split` is given.
        attempt: where the file goes.
        progress: called with images done and images in all.

    Returns:
        Net and its sha256, counts, where the images came from, and the known answers if asked for.
    """
    spec = placed(spec)
    dataset = inputs["dataset"]
    images, first, source = _images(spec, inputs)
    quantisation: int | None = dataset.meta["quantisation"]
    with single_thread():
        net = feature_net(spec, inputs)
        extract = _extractor(net, spec.device)
        features = _features(images.images, extract, spec=spec, quantisation=quantisation, progress=progress)
        size = _group_size(spec, source)
        starts = range(0, len(features), size)
        groups = [FeatureStatistics.of(features[i : i + size]) for i in starts]
        meta: dict[str, Any] = {
            "net": spec.net,
            "net_sha256": net_sha256(inputs.get("classifier")),
            "count": len(features),
            "dim": int(features.shape[1]),
            "first": first,
            "group_size": size,
            "source": source,
        }
        logits = None if net is None else _logits(net, features, spec)
        diversity = Diversity.of(images.images, quantisation, first=first, logits=logits)
        if spec.with_ladder:
            meta |= _known_answers(spec, dataset, net, train=images, reference=merged(groups))
    rows = np.arange(min(spec.num_rows, len(features)))
    np.savez(
        attempt.path("features.npz"),
        allow_pickle=False,
        **(packed(groups) if groups else {}),
        first=np.array([first + i for i in starts], np.int64),
        rows=features[rows],
        rows_index=first + rows,
        **diversity.packed(),
    )
    return meta


def feature_net(spec: FeatureSpec, inputs: dict[str, Artifact]) -> FeatureNet | None:
    """The classifier with its trained weights; None where the data themselves are the features."""
    if spec.classifier is None:
        return None
    model = inputs["classifier"]
    net = load_classifier(spec.classifier, model=model, dataset=inputs["dataset"], device=spec.device)
    return cast(FeatureNet, net)


def net_sha256(classifier: Artifact | None) -> str:
    """Digest of the net's weight files; the statistics of different digests have no distance."""
    digest = hashlib.sha256(b"data" if classifier is None else b"")
    if classifier is not None:
        for name in sorted(classifier.files):
            if name.endswith(".safetensors"):
                digest.update(f"{name} {classifier.files[name].sha256}\n".encode())
    return digest.hexdigest()


def in_batches(x: NDArray[Any], function: Callable[[NDArray[Any]], NDArray[Any]], *, batch_shape: int) -> NDArray[Any]:
    """function(x) in calls of exactly `batch_shape` rows (the last one padded), so bits do not depend on the count."""
    outputs = []
    for start in range(0, len(x), batch_shape):
        rows = np.minimum(np.arange(start, start + batch_shape), len(x) - 1)
        outputs.append(function(x[rows])[: min(batch_shape, len(x) - start)])
    return np.concatenate(outputs)


def _extractor(net: FeatureNet | None, device: str) -> Extractor:
    if net is None:
        return lambda x: x.reshape(len(x), -1)
    return lambda x: _call(net.features, x, device)


@torch.no_grad()
def _call(function: Callable[[Tensor], Tensor], x: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    return function(torch.from_numpy(np.ascontiguousarray(x)).to(device)).float().cpu().numpy()


def _logits(net: FeatureNet, features: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float32]:
    """Class logits (n, classes) of feature rows (n >= 0, dim), in batches of one shape."""
    if len(features) == 0:
        return _call(net.logits, np.zeros((1, features.shape[1]), np.float32), spec.device)[:0]
    return in_batches(features, lambda rows: _call(net.logits, rows, spec.device), batch_shape=spec.batch_shape)


def _images(spec: FeatureSpec, inputs: dict[str, Artifact]) -> tuple[LabelledImages, int, dict[str, Any]]:
    """Images, index of the first one, and where they come from."""
    if spec.split is None:
        block = inputs["images"]
        source = {key: block.meta[key] for key in ("seed", "method", "num_available")}
        return read_split(block, "images"), int(block.meta["first"]), source
    images = read_split(inputs["dataset"], spec.split)
    order = NoiseStream(spec.seed).permutation(len(images), 0, "features").numpy()
    source = {"split": spec.split, "dataset": inputs["dataset"].key.fingerprint, "num_available": len(images)}
    return images.rows(order), 0, source


def _group_size(spec: FeatureSpec, source: dict[str, Any]) -> int:
    """A source with few images gets smaller groups, so that the jackknife still has its blocks."""
    available = source.get("num_available")
    return spec.group_size if available is None else group_size(available, largest=spec.group_size)


def _features(
    levels: NDArray[Any], extract: Extractor, *, spec: FeatureSpec, quantisation: int | None, progress: Progress
) -> NDArray[np.float32]:
    done = 0

    def call(batch: NDArray[Any]) -> NDArray[np.float32]:
        nonlocal done
        features = extract(to_float(batch, quantisation))
        done = min(done + len(batch), len(levels))
        progress(done, len(levels))
        return features

    if len(levels) == 0:  # a block beyond the end of the test split
        return np.zeros((0, extract(np.zeros((1, *levels.shape[1:]), np.float32)).shape[1]), np.float32)
    return in_batches(levels, call, batch_shape=spec.batch_shape)


def _known_answers(
    spec: FeatureSpec,
    dataset: Artifact,
    net: FeatureNet | None,
    *,
    train: LabelledImages,
    reference: FeatureStatistics,
) -> dict[str, Any]:
    quantisation: int | None = dataset.meta["quantisation"]
    held_out = read_split(dataset, "test")
    test = to_float(held_out.images, quantisation)
    extract = _extractor(net, spec.device)
    answers = known_answers(
        lambda x: in_batches(x, extract, batch_shape=spec.batch_shape),
        reference=reference,
        train=to_float(train.images, quantisation),
        test=test,
        labels=train.labels,
        seed=spec.seed,
    )
    if net is not None and held_out.labels is not None:
        features = in_batches(test, extract, batch_shape=spec.batch_shape)
        answers["held_out_accuracy"] = held_out_accuracy(_logits(net, features, spec), held_out.labels)
    if not answers["is_increasing"]:
        LOG.warning("known answers do not grow with the disturbance net=%s ladder=%s", spec.net, answers["ladder"])
    return answers
