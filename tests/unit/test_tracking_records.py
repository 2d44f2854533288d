"""Records, their journey through JSON, and the numbers that a server cannot hold."""

import json
import math
from pathlib import Path

import pytest

from pipeline.tracking import ResultRecord, TrainRecord
from pipeline.tracking.records import digest, finite, from_json, to_json

RESULT = ResultRecord(
    "a" * 64,
    "ddpm/noise",
    {"baseline": "ddpm", "steps": 50},
    {"fd": 1.5},
    {"status": "done"},
    {"sheet.png": b"\x89PNG", "curve.csv": Path("/cache/1/curve.csv")},
    {"fid": "needs the Inception weights"},
)
TRAIN = TrainRecord("b" * 64, "ddpm", {"lr": 2e-4}, {"loss": [(1, 0.5), (2, 0.25)]}, {"train_gpu_h": 0.1})


@pytest.mark.parametrize("record", [RESULT, TRAIN], ids=["result", "train"])
def test_record_survives_json(record: ResultRecord | TrainRecord) -> None:
    assert from_json(json.loads(json.dumps(to_json(record), allow_nan=False))) == record


def test_nonfinite_metrics_become_tags() -> None:
    record = finite(ResultRecord("a" * 64, "x", {}, {"fd": math.inf, "nll": math.nan, "kid": 2.0}))
    assert record.metrics == {"kid": 2.0}
    assert record.tags == {"nonfinite.fd": "inf", "nonfinite.nll": "nan"}


def test_nonfinite_curve_points_are_counted_in_a_tag() -> None:
    record = finite(TrainRecord("a" * 64, "x", {}, {"loss": [(1, 1.0), (5, math.nan), (6, math.inf)]}))
    assert isinstance(record, TrainRecord)
    assert record.curve == {"loss": [(1, 1.0)]}
    assert record.tags == {"nonfinite.train/loss": "2 points, first at step 5"}


def test_absent_metric_names_its_reason() -> None:
    assert finite(RESULT).tags["absent.fid"] == "needs the Inception weights"


def test_digest_ignores_where_a_file_lies() -> None:
    artifacts = {**RESULT.artifacts, "curve.csv": Path("/cache/2/curve.csv")}
    moved = ResultRecord("a" * 64, "ddpm/noise", RESULT.params, RESULT.metrics, RESULT.tags, artifacts, RESULT.reasons)
    assert digest(moved) == digest(RESULT)


def test_digest_sees_a_metric() -> None:
    other = ResultRecord(
        "a" * 64, "ddpm/noise", RESULT.params, {"fd": 1.6}, RESULT.tags, RESULT.artifacts, RESULT.reasons
    )
    assert digest(other) != digest(RESULT)
