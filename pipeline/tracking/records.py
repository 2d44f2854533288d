"""What tracking shows: one record per result row and one per training, as plain data."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Kind = Literal["result", "train"]
Key = tuple[Kind, str]  # kind, fingerprint


@dataclass(frozen=True)
class ResultRecord:
    """One result row.

    Args:
        fingerprint: the artifact the row comes from; one run exists per (kind, fingerprint).
        run_name: what a reader calls the row, for instance `ddpm/noise/cosine`.
        params: axes and resolved settings under short names; never change for one fingerprint.
        metrics: one number per name, flat.
        artifacts: file name -> local path or content.
        reasons: metric name -> the sentence that says why it is absent.
    """

    fingerprint: str
    run_name: str
    params: Mapping[str, str | float | int]
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Path | bytes] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return ("result", self.fingerprint)


@dataclass(frozen=True)
class TrainRecord:
    """One training: its final numbers, and its curves as metric -> [(step, value)], shown under `train/`."""

    fingerprint: str
    run_name: str
    params: Mapping[str, str | float | int]
    curve: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return ("train", self.fingerprint)


Record = ResultRecord | TrainRecord


def curve_name(metric: str) -> str:
    """The metric's name below `train/`, where the page groups charts."""
    return metric if metric.startswith("train/") else f"train/{metric}"


def finite(record: Record) -> Record:
    """The record with every non-finite number moved into a tag: the server would turn inf into 1.8e308."""
    tags = dict(record.tags)
    metrics: dict[str, float] = {}
    for name, value in record.metrics.items():
        if math.isfinite(value):
            metrics[name] = float(value)
        else:
            tags[f"nonfinite.{name}"] = str(float(value))
    if isinstance(record, ResultRecord):
        tags.update({f"absent.{name}": reason for name, reason in record.reasons.items()})
        return replace(record, metrics=metrics, tags=tags)
    curve: dict[str, list[tuple[int, float]]] = {}
    for name, points in record.curve.items():
        curve[name] = [(int(step), float(value)) for step, value in points if math.isfinite(value)]
        lost = [step for step, value in points if not math.isfinite(value)]
        if lost:
            tags[f"nonfinite.{curve_name(name)}"] = f"{len(lost)} points, first at step {lost[0]}"
    return replace(record, metrics=metrics, tags=tags, curve=curve)


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON data; small contents travel as base64, files as their path."""
    data: dict[str, Any] = {
        "kind": record.key[0],
        "fingerprint": record.fingerprint,
        "run_name": record.run_name,
        "params": dict(record.params),
        "metrics": dict(record.metrics),
        "tags": dict(record.tags),
    }
    if isinstance(record, TrainRecord):
        data["curve"] = {name: [[step, value] for step, value in points] for name, points in record.curve.items()}
        return data
    data["reasons"] = dict(record.reasons)
    data["artifacts"] = {
        name: {"base64": base64.b64encode(content).decode()} if isinstance(content, bytes) else {"path": str(content)}
        for name, content in record.artifacts.items()
    }
    return data


def from_json(data: Mapping[str, Any]) -> Record:
    """Inverse of `to_json`.

    Raises:
        KeyError, TypeError, ValueError: the data were not written by `to_json`.
    """
    shared = {name: data[name] for name in ("fingerprint", "run_name", "params", "metrics", "tags")}
    if data["kind"] == "train":
        curve = {name: [(int(step), float(value)) for step, value in points] for name, points in data["curve"].items()}
        return TrainRecord(curve=curve, **shared)
    artifacts: dict[str, Path | bytes] = {
        name: base64.b64decode(content["base64"]) if "base64" in content else Path(content["path"])
        for name, content in data["artifacts"].items()
    }
    return ResultRecord(artifacts=artifacts, reasons=data["reasons"], **shared)


def digest(record: Record) -> str:
    """12 hex digits of what the record shows. Local paths stay out: a cached file moves, its name does not."""
    data = to_json(record)
    data["artifacts"] = {
        name: hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
        for name, content in (record.artifacts.items() if isinstance(record, ResultRecord) else ())
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
