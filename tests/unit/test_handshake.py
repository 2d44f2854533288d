"""Driver and hosts: what differs is told in one sentence with the host's name and what to do."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError
from pipeline.grid.handshake import (
    Reply,
    disagreements,
    require_shared_memory,
    require_tracking,
    tracking_refusal,
)
from pipeline.grid.host_facts import answer, code_fingerprint, folder_facts, host_facts, num_visible_gpus
from tests.bad_inputs import answering
from tests.mlflow_server import MlflowServer


@pytest.fixture(scope="module")
def mine() -> dict[str, Any]:
    return host_facts()


def told(mine: dict[str, Any], **changes: Any) -> list[str]:
    """What is said about a host that is like this one but for the changes."""
    about = {name: changes.pop(name) for name in ("store", "skew_s", "gpus") if name in changes}
    room = {"folders": {"/tmp": {"free_bytes": 2**40, "error": None}}, "shared_memory": None}
    facts = {**mine, **room, "gpus": changes.pop("seen_gpus", None), **changes}
    return list(disagreements(mine, Reply("w1 (10.0.0.2)", facts, None, **about)))


def test_an_equal_host_is_fine(mine: dict[str, Any]) -> None:
    assert told(mine) == []
    assert told(mine, skew_s=90.0, gpus=2, seen_gpus=2) == []


SKEWS = {
    "other code": ({"code": "f" * 64}, r"w1 \(10\.0\.0\.2\) has another version of the pipeline \(ffffffffffff, here "),
    "no package": ({"code": None}, r"cannot import the package pipeline"),
    "other python": ({"python": "3.9.1"}, r"has python 3\.9\.1 \(here 3\.\d+\.\d+\); use one image"),
    "no store": ({"store": "no route to s3:9000"}, r"cannot use the store: no route to s3:9000"),
    "a clock ahead": ({"skew_s": 400.0}, r"its clock is 400 s ahead of the driver's; set both by NTP"),
    "a clock behind": ({"skew_s": -400.0}, r"its clock is 400 s behind"),
    "a full disk": ({"folders": {"/tmp": {"free_bytes": 2**20, "error": None}}}, r"/tmp has 1 MiB free"),
    "a read-only folder": (
        {"folders": {"/tmp": {"free_bytes": None, "error": "Read-only file system"}}},
        r"/tmp cannot be written \(Read-only file system\); mount a writable folder there",
    ),
    "read-only shared memory": (
        {"shared_memory": {"free_bytes": None, "error": "Read-only file system"}},
        r"shared memory cannot be written \(Read-only file system\); mount an emptyDir of medium Memory at /dev/shm",
    ),
    "little shared memory": ({"shared_memory": {"free_bytes": 2**20, "error": None}}, r"/dev/shm has 1 MiB free"),
    "GPUs that torch does not see": ({"gpus": 2, "seen_gpus": 0}, r"promises 2 GPUs and torch sees 0; .*CUDA"),
}


@pytest.mark.parametrize("case", SKEWS)
def test_what_does_not_fit_is_one_sentence(case: str, mine: dict[str, Any]) -> None:
    changes, sentence = SKEWS[case]
    (found,) = told(mine, **changes)
    assert re.search(sentence, found), found


def test_builds_of_one_version_are_the_same_and_versions_are_not(mine: dict[str, Any]) -> None:
    builds = {**mine["packages"], "torch": f"{mine['packages']['torch'].partition('+')[0]}+cu128"}
    assert told(mine, packages=builds) == []
    (sentence,) = told(mine, packages={**mine["packages"], "torch": "2.0.0", "numpy": None})
    assert "has torch 2.0.0 (here" in sentence
    assert "numpy None (here" in sentence


def test_a_silent_host_is_named() -> None:
    (sentence,) = disagreements({}, Reply("w1 (10.0.0.2)", None, "no answer within 120 s"))
    assert "w1 (10.0.0.2) does not answer (no answer within 120 s)" in sentence


def test_the_fingerprint_of_code_changes_with_any_byte_and_no_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "one" / "small_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(package.parent))
    first = code_fingerprint("small_package")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    assert code_fingerprint("small_package") == first
    shutil.copytree(package, tmp_path / "two" / "small_package")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "two"), *sys.path[1:]])
    assert code_fingerprint("small_package") == first, "where it is does not matter"
    (tmp_path / "two" / "small_package" / "inner" / "module.py").write_text("x = 2\n")
    assert code_fingerprint("small_package") != first
    assert code_fingerprint("no_such_package") is None


def test_a_folder_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    assert folder_facts(str(tmp_path))["error"] is None
    assert folder_facts(str(tmp_path))["free_bytes"] > 0
    assert folder_facts(str(tmp_path / "nowhere"))["error"] == "No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_cannot_be_counted_are_unknown(tmp_path: Path) -> None:
    assert num_visible_gpus({"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path)}) is None


def test_an_answer_names_what_keeps_the_store_from_working() -> None:
    facts, refusal = answer(b"no pickle", False)
    assert facts["host"]
    assert refusal
    assert answer(None, False)[1] is None


def test_a_tracking_server_that_refuses_the_host_name_stops_the_request() -> None:
    with (
        answering(403, b"Invalid Host header - possible DNS rebinding attack detected") as uri,
        pytest.raises(ConfigError, match=r"refuses the host name of http://127.* \(403\); start it with --allowed-ho"),
    ):
        require_tracking(uri)
    with answering(401, b"You are not authenticated.") as uri, pytest.raises(ConfigError, match="the credentials"):
        require_tracking(uri)


@pytest.mark.slow
def test_mlflow_refuses_a_host_name_with_the_answer_that_is_looked_for(
    mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path, mlflow_template)
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example.org")
    server.start()
    try:
        with pytest.raises(ConfigError, match=r"refuses the host name of .* start it with --allowed-hosts 127\.0"):
            require_tracking(server.uri)
    finally:
        server.stop()
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", f"127.0.0.1:{server.port}")
    server.start()
    try:
        require_tracking(server.uri)
    finally:
        server.stop()


def test_a_tracking_server_that_is_away_costs_no_work() -> None:
    with answering(500, b"") as uri:
        assert tracking_refusal(uri) is None
    with answering(200, b"{}") as uri:
        assert tracking_refusal(uri) is None
    assert tracking_refusal("http://127.0.0.1:9") is None
    assert tracking_refusal(None) is None
    assert tracking_refusal("sqlite:///x.db") is None


def test_shared_memory_that_cannot_be_written_stops_a_ray_of_our_own(tmp_path: Path) -> None:
    require_shared_memory(str(tmp_path))
    require_shared_memory(str(tmp_path / "a system without it"))
    closed = Path("/proc/self")  # nobody makes files there, not even root
    with pytest.raises(ConfigError, match=r"^this machine: shared memory cannot be written \(.+\); mount an emptyDir"):
        require_shared_memory(str(closed))
