"""What the features of a row's images say: distances with errors, neighbours, classes, copies of training images."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.cmmd import cmmd
from pipeline.evaluate.diversity import diversity_metrics
from pipeline.evaluate.feature_sets import FeatureSet, check_comparable
from pipeline.evaluate.features import RAW_NET
from pipeline.evaluate.frechet import frechet_by_class, frechet_distance
from pipeline.evaluate.inception_score import inception_score
from pipeline.evaluate.jackknife import NUM_BLOCKS, Jackknife, jackknife
from pipeline.evaluate.memorisation import Nearest, memorisation
from pipeline.evaluate.metric_names import feature_metric
from pipeline.evaluate.neighbours import kernel_distance, precision_recall_density_coverage
from pipeline.evaluate.points import energy_distance, mode_coverage, sliced_w2
from pipeline.evaluate.statistics import statistics_by_class
from pipeline.store import Artifact

SampleMetric = Literal[
    "kid",
    "precision_recall",
    "density_coverage",
    "inception_score",
    "cmmd",
    "memorisation",
    "test_distance",
    "class_distance",
    "class_accuracy",
    "diversity",
]
"""Metrics of generated images that name no feature net: they are taken in the first one of a row."""

NEIGHBOURS_PR, NEIGHBOURS_DC = 3, 5
VERSION = 3
LEVELS = "level = clip(floor((x + 1) q / 2), 0, q - 1)"
"""How numbers in [-1, 1] become one of q levels before anything is measured; for q = 256 floor(128 x + 128)."""


@dataclass(eq=False)
class Measured:
    """What was found: metrics, reasons of those that are absent, the protocol, and arrays for paired comparison."""

    metrics: dict[str, float] = field(default_factory=dict[str, float])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    protocol: dict[str, Any] = field(default_factory=dict[str, Any])
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])


@dataclass(frozen=True, eq=False)
class NetSets:
    """Features of a row in one net, of the training split, and, where a metric needs it, of the test split."""

    fake: FeatureSet
    reference: FeatureSet
    held_out: FeatureSet | None

    def __post_init__(self) -> None:
        for other in (self.reference, self.held_out):
            if other is not None:
                check_comparable(self.fake, other)

    def name(self, family: str) -> str:
        """Name of a metric of this net."""
        return feature_metric(family, self.fake.net, num_images=self.fake.n)


def measure_features(metrics: Sequence[str], nets: Sequence[NetSets], *, num_rows: int) -> Measured:
    """Every feature metric of a row; those that name no net in the features of the first one.

    Args:
        metrics: of `ResultSpec`.
        nets: at least one.
        num_rows: rows per side for kernel and neighbour metrics, from the beginning of each set.
    """
    found = Measured()
    first = nets[0]
    nfe = (first.fake.source.get("method") or {}).get("nfe")
    if nfe is not None:
        found.metrics["nfe"] = float(nfe)
    if "fd" in metrics:
        for sets in nets:
            _distance(found, sets, is_first=sets is first)
    found.protocol |= _protocol(first, found.protocol.pop("statistics", {}))
    if len(nets) > 1:
        found.protocol["nets"] = {sets.fake.net: _protocol_of_net(sets) for sets in nets[1:]}
    if "test_distance" in metrics:
        _test_distance(found, first)
    if "class_distance" in metrics:
        _class_distance(found, first)
    if "class_accuracy" in metrics:
        _class_accuracy(found, first)
    _neighbours(found, first, metrics, num_rows)
    if "inception_score" in metrics:
        _inception_score(found, first)
    if "points" in metrics:
        _points(found, next(sets for sets in nets if sets.fake.net == RAW_NET), num_rows)
    if "diversity" in metrics:
        values, reasons, protocol = diversity_metrics(
            first.fake.diversity, first.reference.diversity, suffix=first.name("")
        )
        found.metrics |= values
        found.reasons |= reasons
        found.protocol["diversity"] = protocol
    return found


def measure_memorisation(found: Measured, generated: Sequence[Artifact], held_out: Sequence[Artifact]) -> None:
    """Add how near the generated images come to the training images, against what held-out images do.

    Metrics `memorisation_ratio` (of median distances), `memorised_share` (nearer than 1 % of the held-out images are)
    with errors, and `num_copies`; the protocol lists the nearest pairs.

    Args:
        found: gets them.
        generated: artifacts of the nearest stage, of the row's images.
        held_out: the same of the test split.
    """
    near, expected = (_nearest(artifacts) for artifacts in (generated, held_out))
    names = ("memorisation_ratio", "memorised_share", "num_copies")
    if near is None or expected is None:
        found.reasons |= dict.fromkeys(names, "there are no held-out images to compare with")
        return
    try:
        copies = memorisation(near, expected)
    except ValueError as error:
        found.reasons |= dict.fromkeys(names, str(error))
        return
    found.metrics |= {
        "memorisation_ratio": copies.ratio,
        "memorisation_ratio_se": copies.ratio_se,
        "memorised_share": copies.share,
        "memorised_share_se": copies.share_se,
        "num_copies": float(copies.num_copies),
    }
    found.protocol["memorisation"] = {
        "num_held_out": len(expected.image),
        "pairs": [pair._asdict() for pair in copies.pairs],
    }


def _nearest(artifacts: Sequence[Artifact]) -> Nearest | None:
    parts: list[Nearest] = []
    for artifact in artifacts:
        if artifact.meta["count"]:
            with np.load(artifact.path("nearest.npz"), allow_pickle=False) as stored:
                parts.append(Nearest.unpacked(stored))
    return Nearest.of_all(parts) if parts else None


def _protocol_of_net(sets: NetSets) -> dict[str, Any]:
    """What identifies a net and the images it was shown."""
    return {name: sets.fake.meta[name] for name in ("net", "net_sha256", "preprocessing")}


def _protocol(sets: NetSets, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Without these fields a distance is not comparable."""
    fake, reference = sets.fake, sets.reference
    return {
        **_protocol_of_net(sets),
        "levels": LEVELS,
        "num_images": fake.n,
        "seed": fake.source.get("seed"),
        "method": fake.source.get("method"),
        "reference": {
            **reference.source,
            "dataset": reference.meta["dataset"],
            "num_images": reference.n,
            "flips": False,
            **statistics,
        },
        "jackknife_blocks": NUM_BLOCKS,
        "metric_version": VERSION,
    }


def _distance(found: Measured, sets: NetSets, *, is_first: bool) -> None:
    name, fake = sets.name("fd"), sets.fake
    total = sets.reference.statistics()
    if is_first:
        digest = hashlib.sha256(total.mean.tobytes() + total.scatter.tobytes()).hexdigest()
        found.protocol["statistics"] = {
            "statistics_sha256": digest,
            "precision": total.method,
            "constant_features": total.num_constant,
        }
    if fake.n < 2:
        found.reasons[name] = "a covariance needs at least two images"
        return
    if total.n < 2:
        found.reasons[name] = "a covariance needs at least two images; the training split has one"
        return
    if total.num_constant == total.dim:
        found.reasons[name] = "the feature net gives every training image the same features; it can measure nothing"
        return
    if fake.n < NUM_BLOCKS:
        found.metrics[name] = frechet_distance(fake.statistics(), total)
        found.reasons[f"{name}_se"] = f"the jackknife needs {NUM_BLOCKS} images, there are {fake.n}"
        return
    knife = jackknife(fake.ranges(NUM_BLOCKS), lambda part: frechet_distance(part, total))
    found.metrics |= _with_error(name, knife)
    found.arrays["fd_pseudo_values" if is_first else f"{name}_pseudo_values"] = knife.pseudo_values


def _with_error(name: str, knife: Jackknife) -> dict[str, float]:
    low, high = knife.interval()
    return {
        name: knife.value,
        f"{name}_jk": knife.corrected,
        f"{name}_se": knife.se,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def _test_distance(found: Measured, sets: NetSets) -> None:
    name = f"{sets.name('fd')}_test"
    if sets.held_out is None or min(sets.held_out.n, sets.fake.n) < 2:
        found.reasons[name] = "a covariance needs at least two images on both sides"
        return
    found.metrics[name] = frechet_distance(sets.fake.statistics(), sets.held_out.statistics())
    found.protocol["test_reference"] = {**sets.held_out.source, "num_images": sets.held_out.n}


def _class_distance(found: Measured, sets: NetSets) -> None:
    name = f"{sets.name('fd')}_class_mean"
    fake, reference = sets.fake, sets.reference
    if fake.labels is None or reference.labels is None:
        found.reasons[name] = "the images were made for no class, or the data set has none"
        return
    by_class = frechet_by_class(
        statistics_by_class(fake.rows, fake.labels), statistics_by_class(reference.rows, reference.labels)
    )
    found.protocol["class_distances"] = {str(label): value for label, value in sorted(by_class.distances.items())}
    if by_class.mean is None:
        found.reasons[name] = "; ".join(f"class {k}: {reason}" for k, reason in sorted(by_class.reasons.items()))
        return
    found.metrics[name] = by_class.mean


def _class_accuracy(found: Measured, sets: NetSets) -> None:
    name, fake = sets.name("class_accuracy"), sets.fake
    if fake.labels is None:
        found.reasons[name] = "the images were made for no class"
    elif fake.logits is None or not fake.meta["net"].startswith("fd_clf_"):
        found.reasons[name] = "the feature net does not predict the classes of the data set; measure fd_clf"
    else:
        share = float((fake.logits.argmax(axis=1) == fake.labels).mean())
        found.metrics |= {name: share, f"{name}_se": float(np.sqrt(share * (1.0 - share) / fake.n))}


def _neighbours(found: Measured, sets: NetSets, metrics: Sequence[str], num_rows: int) -> None:
    families = {
        "kid": ("kid",),
        "precision_recall": ("precision", "recall"),
        "density_coverage": ("density", "coverage"),
        "cmmd": ("cmmd",),
    }
    asked = [name for metric, names in families.items() if metric in metrics for name in names]
    if not asked:
        return
    real, fake = sets.reference.rows[:num_rows], sets.fake.rows[:num_rows]
    found.protocol["neighbour_rows"] = {"real": len(real), "generated": len(fake)}
    if min(len(real), len(fake)) <= NEIGHBOURS_DC:
        needed = f"more than {NEIGHBOURS_DC} images are needed on both sides"
        found.reasons |= {sets.name(name): needed for name in asked}
        return
    values: dict[str, float] = {}
    if "kid" in asked:
        values["kid"] = kernel_distance(real, fake)
    if {"precision", "density"} & set(asked):
        values |= precision_recall_density_coverage(real, fake, k_pr=NEIGHBOURS_PR, k_dc=NEIGHBOURS_DC)._asdict()
    if "cmmd" in asked:
        values["cmmd"] = cmmd(real, fake)
    found.metrics |= {sets.name(name): values[name] for name in asked}


def _points(found: Measured, sets: NetSets, num_rows: int) -> None:
    """Distances of points themselves, and what becomes of the modes of a known mixture."""
    real, fake = sets.reference.rows, sets.fake.rows
    if min(len(real), len(fake)) < 2:
        found.reasons |= dict.fromkeys(("sliced_w2", "energy_distance"), "two points are needed on both sides")
    else:
        found.metrics["sliced_w2"] = sliced_w2(real, fake)
        found.metrics["energy_distance"] = energy_distance(real[:num_rows], fake[:num_rows])
    if sets.fake.mixture is None:
        reason = "the data set is not drawn from a mixture that is known"
        found.reasons |= dict.fromkeys(("mode_distance", "share_beyond_4_sigma"), reason)
        return
    modes = mode_coverage(fake, **sets.fake.mixture)
    found.metrics |= {"mode_distance": modes.distance, "share_beyond_4_sigma": modes.beyond}
    found.protocol["modes"] = {"masses": list(modes.masses), "weights": list(modes.weights)}


def _inception_score(found: Measured, sets: NetSets) -> None:
    name = sets.name("inception_score")
    if sets.fake.logits is None:
        found.reasons[name] = "the feature net predicts no classes"
        return
    score = inception_score(sets.fake.logits)
    found.metrics |= {name: score.mean, f"{name}_sd": score.std}
