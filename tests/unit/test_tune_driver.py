"""The command `tune` with trials in this process: rungs, repetition, failures, refusals, and records of trials."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate import likelihood
from pipeline.grid.trials import TrialLog
from pipeline.store import open_store
from tests.grid_doubles import CommandLine
from tests.tune_cases import SEARCH, LocalTune, tuned_file

QUICK = {"evaluate": {"metrics": ["elbo"]}, "tune": {"mode": "exhaustive"}}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(capsys, monkeypatch)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> LocalTune:
    return LocalTune(monkeypatch)


def arguments(tmp_path: Path, **changes: Any) -> tuple[str, ...]:
    return (str(tuned_file(tmp_path, **changes)), "--store", str(tmp_path / "store"), "--tracking", "none")


@pytest.mark.slow
def test_only_promoted_points_reach_the_second_rung_and_a_repetition_does_nothing(
    tmp_path: Path, command: CommandLine, local: LocalTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = {"gud/a=0.4", "gud/a=1.2"}
    monkeypatch.setattr(
        "pipeline.grid.rungs.promoted",
        lambda grid, plan, store, among: [point for point in among if point.name in better],
    )
    monkeypatch.setattr("pipeline.tune.driver.promoted", lambda grid, plan, store, among: [])
    staged = arguments(tmp_path)
    called = command("tune", *staged)
    assert called.code == 0, called.err
    assert local.trials == ["gud/a=0.4", "gud/a=0.8", "gud/a=1.2", "gud/a=1.6", "gaussian", *sorted(better)]
    assert "rung 1 (elbo) 5 of 5 points, rung 2 (nll, fd_clf) 2 of 2 points" in called.out
    assert "trainings 2; evaluations: 160 images drawn, ELBO of 80, NLL of 40 images" in called.out

    again = command("tune", *staged)
    assert (again.code, local.started) == (0, 1)
    assert "trials executed: none: every result was in the store" in again.out
    table = called.out[called.out.index("┏") : called.out.index("└")]
    assert table in again.out
    assert table in command("table", *staged).out

    status = command("status", *staged).out
    assert "7 of 7 rows finished" in status
    assert "trials of rung 1: 5 done, 0 interrupted, 0 failed" in status
    assert "trials of rung 2: 2 done, 0 interrupted, 0 failed" in status
    assert "would delete (--delete does it): 0 items" in command("gc", *staged[1:3], "--older-than-days", "0").out


@pytest.mark.slow
def test_run_and_tune_make_the_same_artifacts(tmp_path: Path, command: CommandLine, local: LocalTune) -> None:
    quick = arguments(tmp_path, **QUICK)
    assert command("tune", *quick).code == 0
    assert "stages executed: none" in command("run", *quick).out


@pytest.mark.slow
def test_a_failing_point_does_not_stop_the_others_and_is_tried_once_more(
    tmp_path: Path, command: CommandLine, local: LocalTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = likelihood.run
    calls: list[float] = []

    def run(spec: Any, *rest: Any) -> Any:
        softness = spec.system.process.schedule.softness_a
        if softness == 0.8:
            calls.append(softness)
            raise RuntimeError("no memory left\nand more")
        return original(spec, *rest)

    monkeypatch.setattr(likelihood, "run", run)
    quick = arguments(tmp_path, **QUICK)
    called = command("tune", *quick)
    assert called.code == 3
    assert len(calls) == 2, "the same failure twice is final"
    assert "failed: trial gud/a=0.8 (trials): RuntimeError: no memory left" in called.out
    assert "trials executed: trials 4 of 5 points" in called.out
    status = command("status", *quick).out
    assert "4 done, 0 interrupted, 1 failed" in status
    assert "  failed: gud/a=0.8: RuntimeError: no memory left" in status

    monkeypatch.setattr(likelihood, "run", original)
    healed = command("tune", *quick)
    assert (healed.code, "trials 1 of 5 points" in healed.out) == (0, True)
    record = TrialLog(open_store(tmp_path / "store"), "tuned").read(1, "gud/a=0.8")
    assert (record.state, record.starts, record.finished, record.reason) == ("done", 3, 1, "")


@pytest.mark.slow
def test_trials_that_fail_alike_stop_the_grid(
    tmp_path: Path, command: CommandLine, local: LocalTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(likelihood, "run", run)
    called = command("tune", *arguments(tmp_path, **QUICK))
    assert called.code == 3
    assert "stopped: 3 trials failed alike and none succeeded (RuntimeError: a bug)" in called.out
    assert len(local.trials) == 3


@pytest.mark.slow
def test_points_of_a_training_that_failed_are_left_out(tmp_path: Path, command: CommandLine, local: LocalTune) -> None:
    blocks = [
        {"baseline": "gud", "softness_a": 0.4, "train.lr": 1e30, "train.clip_norm": None, "train.steps": 20},
        {"baseline": "gud", "softness_a": 1.0},
    ]
    called = command("tune", *arguments(tmp_path, grid=blocks, **QUICK))
    assert called.code == 3
    assert "failed: train gud pca a=0.4 eps seed 0" in called.out
    assert len(local.trials) == 1


def test_ends_that_differ_are_refused_before_anything_starts(
    tmp_path: Path, command: CommandLine, local: LocalTune
) -> None:
    blocks = [{"baseline": "gud", "log_snr_prior": [-7.0, -3.0]}]
    for verb in ("tune", "plan", "status"):
        called = command(verb, *arguments(tmp_path, grid=blocks))
        assert called.code == 2
        assert "have no comparable likelihoods" in called.sentence
    assert local.started == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"grid": [{"baseline": "gaussian"}]}, "a search needs a block of baseline gud alone"),
        ({"grid": [{"baseline": "gud", "prior": ["data", "standard"]}]}, "a search needs one value of prior"),
        ({"grid": [{"baseline": "gud", "amortise": {"softness_a": [0.5, 1.6]}}]}, "widen amortise"),
        ({"tune": {"search": {"metric": "nll_bpd"}}}, "nll_bpd is not measured here; use elbo_bpd"),
        ({"tune": {"search": {"space": {"softness_a": [0.41, 0.44]}}}}, "holds no multiple of step = 0.1"),
    ],
)
def test_a_search_that_cannot_work_is_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path, command: CommandLine, local: LocalTune
) -> None:
    from tests.grids import merged

    called = command("tune", *arguments(tmp_path, **merged(SEARCH, changes)))
    assert called.code == 2
    assert sentence in called.sentence
    assert local.started == 0


def test_proposals_of_earlier_commands_are_rows_of_the_grid(tmp_path: Path, command: CommandLine) -> None:
    options = arguments(tmp_path, **SEARCH)
    assert "grid tuned: 1 rows, 1 trainings" in command("plan", *options).out
    points = [{"trial": str(i), "point": {"softness_a": a}} for i, a in enumerate((0.7, 1.0, 0.7, 5.0))]
    documents = open_store(tmp_path / "store").documents("grids/tuned")
    documents.put("points.json", json.dumps({"proposals": points}).encode())
    out = command("plan", *options).out
    assert "grid tuned: 2 rows, 1 trainings" in out, "1.0 is a row of the file, 5.0 lies outside the space"
    assert "a=0.7" in out


@pytest.mark.slow
def test_a_damaged_block_of_a_finished_point_is_made_again(
    tmp_path: Path, command: CommandLine, local: LocalTune
) -> None:
    quick = arguments(tmp_path, **QUICK)
    assert command("tune", *quick).code == 0
    store = open_store(tmp_path / "store")
    key = next(iter(store.keys("likelihood")))
    artifact = store.find(key)
    assert artifact is not None
    path = Path(str(artifact.path("likelihood.npz")))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    assert command("verify", *quick[1:3], "--repair").code == 0
    again = command("tune", *quick)
    assert (again.code, "trials 1 of 5 points" in again.out) == (0, True), again.out
    assert "likelihood 1" in again.out
    assert command("verify", *quick[1:3]).code == 0
