"""Addresses, links and the text of the page."""

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.tracking import Target, Tracker, default_uri
from pipeline.tracking.view import column_id, note, view_state


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/x", "sqlite:///", "http://", "postgresql://host/db", ""])
def test_address_that_cannot_work_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"use sqlite:///FILE\.db or http://HOST:PORT"):
        Target(uri)


def test_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as refusal:
        Target("http://me:secret@host:5000")
    assert "secret" not in str(refusal.value)


def test_grid_name_with_a_slash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="slash"):
        Tracker(None, "a/b", documents=tmp_path, columns=[], primary="fd")


def test_default_is_a_file_in_a_local_store_only(tmp_path: Path) -> None:
    assert default_uri(str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert default_uri("s3://bucket/prefix") is None


def test_relative_file_is_resolved_for_other_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = Target("sqlite:///runs/mlflow.db")
    assert target.open_with == f"python -m mlflow ui --backend-store-uri sqlite:///{tmp_path}/runs/mlflow.db"
    assert target.artifact_location == f"file://{tmp_path}/runs/mlflow-artifacts"


def test_link_opens_the_shared_view_of_the_server() -> None:
    link = Target("http://host:5000/").link("7")
    assert link == "http://host:5000/#/experiments/7/runs?viewStateShareKey=results"


def test_column_is_a_metric_if_some_run_has_it() -> None:
    assert column_id("fd", {"fd"}) == "metrics.`fd`"
    assert column_id("baseline", {"fd"}) == "params.`baseline`"
    assert column_id("params.fd", {"fd"}) == "params.`fd`"


def test_view_sorts_and_selects_one_kind() -> None:
    state = json.loads(view_state(["fd", "basis"], metrics={"fd"}, primary="fd", ascending=True, kind="result"))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`fd`", True)
    assert state["searchFilter"] == "tags.kind = 'result'"
    assert state["selectedColumns"] == ["metrics.`fd`", "params.`basis`"]


def test_note_escapes_what_would_break_the_table() -> None:
    text = note("grid", [{"run": "a|b\n<script>", "fd": 1.23456}], experiment_id="1", primary="fd")
    assert "| a\\|b \\<script\\> | 1.235 |" in text.splitlines()


def test_note_holds_twenty_rows_and_counts_the_rest() -> None:
    text = note("grid", [{"run": str(i)} for i in range(25)], experiment_id="1", primary="fd")
    assert "| 19 |" in text
    assert "| 20 |" not in text
    assert "5 more rows" in text
