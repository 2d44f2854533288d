"""The features stage: images, or a part of a split, as rows of features that every metric of the net starts from."""

import hashlib
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from pipeline.baselines.devices import DEVICE_PATTERN, placed
from pipeline.baselines.system import SystemSpec, load_classifier
from pipeline.baselines.threads import single_thread
from pipeline.config import DataError, Spec, runtime
from pipeline.diffusion.randomness import NoiseStream
from pipeline.evaluate.diversity import Diversity
from pipeline.evaluate.nets import AnyNetSpec
from pipeline.shards import LabelledImages, read_split, to_float
from pipeline.store import Artifact, Attempt

STAGE = "features"
STAGE_VERSION = 3
RAW_NET = "fd_data"

Progress = Callable[[int, int], None]
Float32 = NDArray[np.float32]


class FeatureNet(Protocol):
    """What a net must offer: features (n, dim) of images (n, C, H, W) in [-1, 1], and class logits of features."""

    def features(self, x: Tensor) -> Tensor: ...

    def logits(self, features: Tensor) -> Tensor: ...


class NetChoice(Spec):
    """A feature net by name: a classifier of the data set, a net with weights of its own, or the data themselves."""

    net: str  # names the distance: fid, fd_clf_<dataset>; fd_data takes the data themselves as features
    classifier: SystemSpec | None = None  # of fd_clf_<dataset>
    extractor: AnyNetSpec | None = None  # of any other net
    batch_shape: PositiveInt = 250
    device: str = runtime("auto", pattern=DEVICE_PATTERN)

    @model_validator(mode="after")
    def _is_named_honestly(self) -> "NetChoice":
        if self.classifier is not None and self.extractor is not None:
            raise ValueError(f"net {self.net}: give a classifier or an extractor")
        if (self.net == RAW_NET) != (self.classifier is None and self.extractor is None):
            raise ValueError(f"net {self.net}: {RAW_NET} takes no classifier, any other net needs one or an extractor")
        if self.classifier is not None and not self.net.startswith("fd_clf_"):
            raise ValueError(f"net {self.net}: a classifier of our own is called fd_clf_<dataset>, never fid")
        if self.extractor is not None and self.net != self.extractor.name:
            raise ValueError(f"net {self.net}: the extractor is called {self.extractor.name}")
        return self


class FeatureSpec(NetChoice):
    """Features of one block of images, or of a part of a split of the data (the reference of every distance)."""

    split: Literal["train", "test"] | None = None  # None: a block of the sample stage
    part: NonNegativeInt = 0  # which part of the split
    num_parts: PositiveInt = 1  # tasks that share the split
    seed: NonNegativeInt = 0  # of the order in which a split is read, so that its blocks are random in class

    @model_validator(mode="after")
    def _part_exists(self) -> "FeatureSpec":
        if self.part >= self.num_parts:
            raise ValueError(f"part = {self.part} of {self.num_parts} parts, counted from 0")
        return self


class Extractor:
    """A net on its device, called with batches of one shape so that no bit of a row depends on its neighbours.

    Attributes:
        sha256: digest of the weights; the statistics of different digests have no distance.
        preprocessing: how images reach the net.
        has_classes: whether it predicts the classes of the data set.
        has_logits: whether it predicts any classes.
    """

    def __init__(self, choice: NetChoice, inputs: dict[str, Artifact]) -> None:
        self._device, self._batch_shape = choice.device, choice.batch_shape
        self._net: FeatureNet | None = None
        self.preprocessing = "data"
        self.sha256 = classifier_sha256(None)
        self.has_classes = choice.classifier is not None
        self.has_logits = self.has_classes
        if choice.classifier is not None:
            model = inputs["classifier"]
            self._net = load_classifier(  # pyright: ignore[reportAttributeAccessIssue]
                choice.classifier, model=model, dataset=inputs["dataset"], device=choice.device
            )
            self.sha256 = classifier_sha256(model)
        elif choice.extractor is not None:
            loaded = choice.extractor.load(choice.device)
            self._net, self.sha256, self.preprocessing = loaded, loaded.sha256, loaded.preprocessing
            self.has_logits = loaded.has_logits

    def features(self, x: Float32, progress: Progress = lambda done, total: None) -> Float32:
        """Features (n, dim) of data (n >= 0, *shape) in [-1, 1].

        Raises:
            DataError: features that are not finite.
        """
        if len(x) == 0:  # a block beyond the end of the test split
            return self._features(np.zeros((1, *x.shape[1:]), np.float32))[:0]
        done = 0

        def call(batch: Float32) -> Float32:
            nonlocal done
            rows = self._features(batch)
            done = min(done + len(batch), len(x))
            progress(done, len(x))
            return rows

        return in_batches(x, call, batch_shape=self._batch_shape)

    def logits(self, features: Float32) -> Float32:
        """Class logits (n, classes) of feature rows (n >= 0, dim)."""
        net = self._net
        assert net is not None
        if len(features) == 0:
            return self._call(net.logits, np.zeros((1, features.shape[1]), np.float32))[:0]
        return in_batches(features, lambda rows: self._call(net.logits, rows), batch_shape=self._batch_shape)

    def _features(self, x: Float32) -> Float32:
        rows = x.reshape(len(x), -1) if self._net is None else self._call(self._net.features, x)
        if not np.isfinite(rows).all():
            raise DataError("features hold NaN or infinity; look at the images and at the weights of the feature net")
        return rows

    @torch.no_grad()
    def _call(self, function: Callable[[Tensor], Tensor], x: Float32) -> Float32:
        return function(torch.from_numpy(np.ascontiguousarray(x)).to(self._device)).float().cpu().numpy()


def run(
    spec: FeatureSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write `features.npz`: features (n, dim) float32, index (n,) of the images in their set or split, labels (n,)
    where they have them, logits (n, classes) where the net predicts some, and the counts of `Diversity`.

    Args:
        spec: which net on which images.
        inputs: `dataset`; `classifier` (a training) of a net that is one; `images` unless `split` is given.
        attempt: where the file goes.
        progress: called with images done and images in all.

    Returns:
        Net, its digest and preprocessing, the data set, counts and where the images came from; for points as they are
        also the mixture that the data set is drawn from.
    """
    spec = placed(spec)
    dataset = inputs["dataset"]
    images, first, source = _images(spec, inputs)
    quantisation: int | None = dataset.meta["quantisation"]
    with single_thread():
        extractor = Extractor(spec, inputs)
        features = extractor.features(to_float(images.images, quantisation), progress)
        arrays: dict[str, NDArray[Any]] = {"features": features, "index": images.index}
        logits = None
        if extractor.has_logits:
            arrays["logits"] = logits = extractor.logits(features)
        if images.labels is not None:
            arrays["labels"] = images.labels
        predicted = logits if extractor.has_classes else None
        diversity = Diversity.of(images.images, quantisation, first=first, logits=predicted)
    np.savez(attempt.path("features.npz"), allow_pickle=False, **arrays, **diversity.packed())
    return {
        "net": spec.net,
        "net_sha256": extractor.sha256,
        "preprocessing": extractor.preprocessing,
        "dataset": dataset.key.fingerprint,
        "count": len(features),
        "dim": int(features.shape[1]),
        "first": first,
        "source": source,
        **({"mixture": dataset.meta["mixture"]} if spec.net == RAW_NET and "mixture" in dataset.meta else {}),
    }


def classifier_sha256(classifier: Artifact | None) -> str:
    """Digest of a classifier's weight files; without one, of the data as their own features."""
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


def _images(spec: FeatureSpec, inputs: dict[str, Artifact]) -> tuple[LabelledImages, int, dict[str, Any]]:
    """Images, index of the first one, and where they come from."""
    if spec.split is None:
        block = inputs["images"]
        source = {key: block.meta[key] for key in ("seed", "method", "num_available")}
        return read_split(block, "images"), int(block.meta["first"]), source
    images = read_split(inputs["dataset"], spec.split)
    order = NoiseStream(spec.seed).permutation(len(images), 0, "features").numpy()
    first, end = (len(images) * part // spec.num_parts for part in (spec.part, spec.part + 1))
    source = {"split": spec.split, "num_available": len(images)}
    return images.rows(order[first:end]), first, source
