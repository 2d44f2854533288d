"""Log densities and bounds of held-out images, joined from blocks, and what a row says about them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataError
from pipeline.evaluate.likelihood import BOUND_TERMS
from pipeline.evaluate.statistics import Array
from pipeline.store import Artifact


@dataclass(frozen=True, eq=False)
class Scores:
    """Values per image in order of the image index, and the meta that the blocks share.

    Attributes:
        index: of the images in their split, `(n,)`, rising.
        bits: bits per dimension, `(n,)`.
        terms: of a bound, nats, `(n,)` each; none for a density.
        meta: of the first block.
    """

    index: NDArray[np.int64]
    bits: Array
    terms: Mapping[str, Array]
    meta: Mapping[str, Any]

    def summary(self, name: str) -> dict[str, float]:
        """`<name>_bpd` and its standard error over images, `<name>_se`."""
        se = float(self.bits.std(ddof=1) / np.sqrt(len(self.bits)))
        return {f"{name}_bpd": float(self.bits.mean()), f"{name}_se": se}

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What paired differences need: `<name>_index` and `<name>_bits_per_dim`."""
        return {f"{name}_index": self.index, f"{name}_bits_per_dim": self.bits}

    def protocol(self, *keys: str) -> dict[str, Any]:
        """Those entries of the meta, and the number of images."""
        return {key: self.meta.get(key) for key in keys} | {"num_images": len(self.bits)}


def joined(blocks: Sequence[Artifact]) -> Scores | str:
    """Likelihood blocks as one set, or the sentence why there is nothing to be said.

    Raises:
        DataError: an image is in two blocks.
    """
    absent = [str(block.meta["absent"]) for block in blocks if block.meta["absent"]]
    if absent or not blocks:
        return absent[0] if absent else "no likelihood was asked for"
    parts: dict[str, list[NDArray[Any]]] = {}
    for block in blocks:
        with np.load(block.path("likelihood.npz"), allow_pickle=False) as stored:
            for name in stored.files:
                parts.setdefault(name, []).append(stored[name])
    values = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if len(values["index"]) < 2:
        return f"a standard error needs at least two held-out images, there are {len(values['index'])}"
    order = np.argsort(values["index"], kind="stable")
    values = {name: array[order] for name, array in values.items()}
    index = values["index"]
    if (index[1:] == index[:-1]).any():
        raise DataError("likelihood blocks overlap: an image is counted twice")
    terms = {name: values[name] for name in BOUND_TERMS if name in values}
    return Scores(index, values["bits_per_dim"], terms, blocks[0].meta)


def bound_metrics(scores: Scores, *, prefix: str = "") -> tuple[dict[str, float], dict[str, str]]:
    """The terms of a bound as `<prefix><term>_bpd`, which add up to it, and `delta_gamma`; or why one is absent.

    The change of units of quantised data is part of the reconstruction, the only term that sees the data themselves.

    Raises:
        DataError: the blocks hold no bound.
    """
    if set(scores.terms) != set(BOUND_TERMS):
        raise DataError(f"these blocks hold a likelihood of kind {scores.meta.get('kind')}, expected elbo or vlb")
    nats_per_bit = float(scores.meta["dim"]) * math.log(2.0)
    terms = ("prior_kl", "diffusion")
    metrics = {f"{prefix}{name}_bpd": float(scores.terms[name].mean()) / nats_per_bit for name in terms}
    metrics[f"{prefix}reconstruction_bpd"] = float(scores.bits.mean()) - sum(metrics.values())
    span = scores.meta["delta_gamma"]
    if span is None:
        return metrics, {"delta_gamma": "gamma is infinite at an end of the path"}
    return metrics | {"delta_gamma": float(span)}, {}
