"""Which experiments of Tune are continued, and where they lie."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.store import open_store


@pytest.mark.slow
def test_an_experiment_without_a_whole_snapshot_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tune import experiment

    folder = tmp_path / "experiment"
    folder.mkdir(mode=0o755)
    restored: list[str] = []

    def restore(path: str, **_: Any) -> str:
        restored.append(path)
        return "tuner"

    monkeypatch.setattr(experiment.tune.Tuner, "restore", restore)
    assert experiment._continued(None, folder) is None, "nothing is there"
    (folder / "tuner.pkl").touch()
    assert experiment._continued(None, folder) is None, "killed before the first snapshot"
    snapshot = folder / "experiment_state-2026-01-01_00-00-00.json"
    snapshot.write_text('{"trial_data": [[')
    assert experiment._continued(None, folder) is None, "killed while it was written"
    snapshot.write_text('{"trial_data": []}')
    assert experiment._continued(None, folder) == "tuner"
    assert restored == [str(folder)]
    folder.chmod(0o777)
    assert experiment._continued(None, folder) is None, "others may have put it there"
    folder.chmod(0o755)
    (folder / experiment.FINISHED).touch()
    assert experiment._continued(None, folder) is None, "it came to its end"


@pytest.mark.slow
def test_state_that_cannot_be_read_is_no_obstacle(tmp_path: Path) -> None:
    from pipeline.tune import experiment

    (tmp_path / "tuner.pkl").write_bytes(b"cut")
    (tmp_path / "experiment_state-2026-01-01_00-00-00.json").write_text("{}")
    assert experiment._continued(None, tmp_path) is None


@pytest.mark.slow
def test_state_lies_in_a_folder_of_the_user_and_never_in_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tune.experiment import experiment_folder

    monkeypatch.delenv("PIPELINE_SCRATCH", raising=False)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    store = open_store(tmp_path / "store")
    first = experiment_folder(store, "grid", "rung1", "a" * 64)
    assert first.is_relative_to(tmp_path / "cache")
    assert first == experiment_folder(store, "grid", "rung1", "a" * 64)
    first.mkdir()
    other = experiment_folder(open_store(tmp_path / "other"), "grid", "rung1", "a" * 64)
    assert other != first
    assert first.exists()
    experiment_folder(store, "grid", "rung1", "b" * 64)
    assert not first.exists(), "the same rung of another request"
    monkeypatch.setenv("PIPELINE_SCRATCH", str(tmp_path / "scratch"))
    assert experiment_folder(store, "grid", "rung1", "a" * 64).is_relative_to(tmp_path / "scratch")
