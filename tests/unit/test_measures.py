"""Feature metrics of a row where something is missing: every number is there, or the sentence why it is not."""

from typing import Any

import numpy as np
import pytest

from pipeline.config import DataError
from pipeline.evaluate.diversity import Diversity
from pipeline.evaluate.feature_sets import FeatureSet
from pipeline.evaluate.measures import Measured, NetSets, measure_features

META = {"net": "fd_own", "net_sha256": "0" * 64, "preprocessing": "rgb8", "dataset": "1" * 64}
METRICS = ("fd", "kid", "precision_recall", "density_coverage", "inception_score", "class_accuracy", "class_distance")


def feature_set(rows: np.ndarray, **changes: Any) -> FeatureSet:
    fields: dict[str, Any] = {
        "meta": META,
        "rows": rows.astype(np.float32),
        "index": np.arange(len(rows)),
        "labels": None,
        "logits": None,
        "diversity": Diversity(np.zeros(0), np.zeros(0, np.int64), None),
        "source": {"seed": 0, "method": {"kind": "own", "nfe": 10}},
    }
    return FeatureSet(**(fields | changes))


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4))


def measured(fake: FeatureSet, reference: FeatureSet | None = None, *, metrics: Any = METRICS) -> Measured:
    reference = feature_set(drawn(200, 1)) if reference is None else reference
    return measure_features(metrics, [NetSets(fake, reference, None)], num_rows=100)


def test_a_single_image_has_reasons_and_no_numbers() -> None:
    found = measured(feature_set(drawn(1)))
    assert found.metrics == {"nfe": 10.0}
    assert found.reasons["fd_own"] == "a covariance needs at least two images"
    for name in ("kid", "precision", "recall", "density", "coverage"):
        assert "more than 5 images" in found.reasons[f"{name}_own"]


def test_a_net_that_sees_no_difference_measures_nothing() -> None:
    found = measured(feature_set(drawn(50)), feature_set(np.ones((200, 4))), metrics=("fd",))
    assert "gives every training image the same features" in found.reasons["fd_own"]
    assert "fd_own" not in found.metrics


def test_one_image_for_all_has_a_distance() -> None:
    found = measured(feature_set(np.ones((50, 4))), metrics=("fd",))
    assert found.metrics["fd_own"] > 1.0
    assert found.metrics["fd_own_se"] >= 0.0


def test_features_that_are_constant_in_the_data_are_counted() -> None:
    reference = drawn(200, 1)
    reference[:, 2] = 0.0
    found = measured(feature_set(drawn(50)), feature_set(reference), metrics=("fd",))
    assert found.protocol["reference"]["constant_features"] == 1


def test_labels_without_a_classifier_give_distances_by_class_and_no_accuracy() -> None:
    labels = np.arange(200) % 2
    sides = feature_set(drawn(200), labels=labels), feature_set(drawn(200, 1), labels=labels)
    found = measured(*sides, metrics=("class_distance", "class_accuracy"))
    assert set(found.protocol["class_distances"]) == {"0", "1"}
    assert "measure fd_clf" in found.reasons["class_accuracy_own"]


@pytest.mark.parametrize(("name", "value"), [("net_sha256", "2" * 64), ("preprocessing", "tf1-299"), ("dataset", "3")])
def test_sets_of_another_net_preprocessing_or_data_set_have_no_distance(name: str, value: str) -> None:
    other = feature_set(drawn(200, 1), meta={**META, name: value})
    with pytest.raises(DataError, match=f"no distance to this reference: {name} is .*, of the reference {value};"):
        measured(feature_set(drawn(50)), other)


@pytest.mark.parametrize(
    ("count", "name"), [(50_000, "fid"), (5000, "fid_5k"), (10_000, "fid_10k"), (360, "fid_360"), (1500, "fid_1500")]
)
def test_the_name_of_a_fid_says_its_number_of_images(count: int, name: str) -> None:
    fake = feature_set(np.zeros((count, 1)), meta={**META, "net": "fid"})
    sets = NetSets(fake, feature_set(np.zeros((2, 1)), meta={**META, "net": "fid"}), None)
    assert sets.name("fd") == name
    assert sets.name("kid") == "kid"
