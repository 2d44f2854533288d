"""Which submission a request is, whether one is live already, and with which code the command ends."""

import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.grid.submit import ClusterLost, Echo, Ending, Known, Submission, cancel, read_submission, submit
from pipeline.grid.submit_ray import RayJobs, job_server
from tests.grid_doubles import CommandLine
from tests.grids import tiny_grid

STORE = "s3://bucket/runs"
DONE = Ending("SUCCEEDED", 0)


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    return read_submission(str(tiny_grid(tmp_path)), store=STORE)


@dataclass
class Scripted:
    """A cluster that answers as written down, and remembers what it was asked for."""

    attempts: Sequence[Known] = ()
    is_taken: bool = False
    endings: list[Ending | BaseException | Callable[[], None]] = field(default_factory=lambda: [DONE])
    sent: list[int] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)

    def known(self, submission: Submission) -> Sequence[Known]:
        return self.attempts

    def send(self, submission: Submission, attempt: int) -> bool:
        self.sent.append(attempt)
        return not self.is_taken

    def follow(self, identity: str, echo: Echo) -> Ending:
        self.followed.append(identity)
        ending = self.endings.pop(0)
        if isinstance(ending, BaseException):
            raise ending
        if isinstance(ending, Ending):
            return ending
        ending()
        raise AssertionError("the signal did not arrive")

    def stop(self, identity: str) -> None:
        self.stopped.append(identity)

    def rendered(self, submission: Submission, attempt: int) -> str:
        return submission.identity(attempt)


def sent(cluster: Scripted, submission: Submission, **options: bool) -> tuple[int, str]:
    told: list[str] = []
    code = submit(cluster, submission, echo=told.append, tell=told.append, **options)
    return code, "\n".join(told)


def test_one_request_has_one_identity_and_another_store_or_verb_has_another(tmp_path: Path) -> None:
    grid = str(tiny_grid(tmp_path))
    one = read_submission(grid, store=STORE)
    assert re.fullmatch(r"pipeline-[0-9a-f]{16}-7", one.identity(7))
    assert one.attempt_of(one.identity(12)) == 12
    assert one.attempt_of(f"{one.stem}-x") is None
    same = read_submission(grid, store=STORE + "/", max_units=2, env=["PIPELINE_DATA=/x"], tracking="none")
    assert same.fingerprint == one.fingerprint, "how the work is done is no part of the request"
    spelled = read_submission(grid, store=STORE, overrides=("experiment.train.steps=20",))
    assert spelled.fingerprint == one.fingerprint, "a value that is the file's own changes nothing"
    others = [
        read_submission(grid, store=STORE, overrides=("experiment.train.steps=21",)),
        read_submission(grid, store="s3://bucket/other"),
        read_submission(grid, store=STORE, verb="tune"),
        read_submission(grid, store=STORE, data="/data"),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert all(other.attempt_of(one.identity(1)) is None for other in others)


def test_the_attempt_is_one_more_than_those_that_ended(submission: Submission) -> None:
    first = Scripted()
    assert sent(first, submission)[0] == 0
    third = Scripted([Known(1, False, "a"), Known(2, False, "a")])
    sent(third, submission)
    assert (first.sent, third.sent) == ([1], [3])
    after_a_deletion = Scripted([Known(2, False, "a")])
    sent(after_a_deletion, submission)
    assert after_a_deletion.sent == [3], "an id is never used twice, also where an earlier job was deleted"


def test_a_live_submission_is_attached_to_and_named(submission: Submission) -> None:
    cluster = Scripted([Known(1, False, "a"), Known(2, True, "eve@laptop")], endings=[Ending("FAILED", 3)])
    code, told = sent(cluster, submission)
    assert (code, cluster.sent, cluster.followed) == (3, [], [submission.identity(2)])
    assert f"attached to {submission.identity(2)} of eve@laptop" in told


def test_an_id_that_was_taken_in_between_is_attached_to(submission: Submission) -> None:
    cluster = Scripted(is_taken=True)
    code, told = sent(cluster, submission)
    assert (code, cluster.followed) == (0, [submission.identity(1)])
    assert "attached" in told


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (DONE, 0),
        (Ending("FAILED", 2), 2),
        (Ending("FAILED", 4), 4),
        (Ending("FAILED", None, "the runtime environment could not be made"), 3),
        (Ending("FAILED", -9), 3),
        (Ending("STOPPED"), 130),
    ],
)
def test_the_exit_code_is_the_drivers(submission: Submission, ending: Ending, code: int) -> None:
    found, told = sent(Scripted(endings=[ending]), submission)
    assert found == code
    assert ending.message in told


def interrupted(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_this_command_submitted(submission: Submission, number: int) -> None:
    cluster = Scripted(endings=[interrupted(number), Ending("STOPPED")])
    code, told = sent(cluster, submission)
    assert (code, cluster.stopped) == (130, [submission.identity(1)])
    assert "was stopped" in told


def test_a_signal_leaves_what_somebody_else_submitted(submission: Submission) -> None:
    cluster = Scripted([Known(1, True, "eve")], endings=[interrupted(signal.SIGINT)])
    code, told = sent(cluster, submission)
    assert (code, cluster.stopped) == (130, [])
    assert "--cancel stops it" in told


def test_a_second_signal_leaves_at_once(submission: Submission) -> None:
    cluster = Scripted(endings=[interrupted(signal.SIGINT), interrupted(signal.SIGINT)])
    code, told = sent(cluster, submission)
    assert code == 130
    assert "before its end was seen" in told


def test_a_lost_cluster_is_a_failure_that_says_how_to_go_on(submission: Submission) -> None:
    code, told = sent(Scripted(endings=[ClusterLost("nobody answers")]), submission)
    assert code == 3
    assert "nobody answers; what is finished is kept, repeat the command" in told


def test_without_waiting_nothing_is_followed(submission: Submission) -> None:
    cluster = Scripted()
    assert sent(cluster, submission, wait=False)[0] == 0
    assert (cluster.sent, cluster.followed) == ([1], [])


def test_cancel_stops_the_live_submission_only(submission: Submission) -> None:
    told: list[str] = []
    idle = Scripted([Known(1, False, "a")])
    assert cancel(idle, submission, echo=told.append, tell=told.append) == 0
    assert (idle.stopped, idle.sent) == ([], [])
    live = Scripted([Known(1, False, "a"), Known(2, True, "a")], endings=[Ending("STOPPED")])
    assert cancel(live, submission, echo=told.append, tell=told.append) == 0
    assert live.stopped == [submission.identity(2)]


REFUSED = {
    "a folder of this machine": ({"store": "runs"}, r"--store: runs is a folder of this machine"),
    "a local database": ({"tracking": "sqlite:///x.db"}, r"a sqlite file is of no use on a cluster"),
    "a secret": ({"env": ["AWS_SECRET_ACCESS_KEY=x"]}, r"--env AWS_SECRET_ACCESS_KEY: .*shows the environment"),
    "a token from here": ({"env": ["RAY_AUTH_TOKEN"]}, r"--env RAY_AUTH_TOKEN: "),
    "no variable": ({"env": ["A B=1"]}, r"write NAME=VALUE"),
    "a variable that is not set": ({"env": ["NOT_SET_HERE"]}, r"NOT_SET_HERE: the variable is not set here"),
    "a wrong setting": ({"overrides": ("experiment.train.lrr=1",)}, r"did you mean lr\?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_on_a_cluster_is_refused(case: str, tmp_path: Path) -> None:
    changes, sentence = REFUSED[case]
    with pytest.raises(ConfigError, match=sentence):
        read_submission(str(tiny_grid(tmp_path)), **{"store": STORE, **changes})


def test_the_job_server_is_an_http_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert job_server("http://head:8265/") == "http://head:8265"
    with pytest.raises(ConfigError, match="name the cluster's job server"):
        job_server(None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ConfigError, match="head:6379 is no job server"):
        job_server(None)


def test_a_grid_outside_of_what_is_uploaded_is_refused(submission: Submission, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(ConfigError, match="is not below the folder that is uploaded"):
        RayJobs("http://head:8265", str(folder)).rendered(submission, 1)


def test_the_printed_command_names_everything_and_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-value")
    command = CommandLine(capsys, monkeypatch)
    grid = tiny_grid(tmp_path)
    called = command(
        "submit", str(grid), "--store", STORE, "--address", "http://head:8265", "--working-dir", str(tmp_path),
        "--env", "PIPELINE_DATA=/data", "--set", "experiment.train.steps=21", "--units", "3", "--dry-run",
    )  # fmt: skip
    assert called.code == 0
    submission = read_submission(str(grid), store=STORE, overrides=("experiment.train.steps=21",))
    for part in (
        "ray job submit --address http://head:8265 --no-wait",
        f"--submission-id {submission.identity(1)}",
        f"--working-dir {tmp_path}",
        '"PIPELINE_DATA": "/data"',
        "-- python -m pipeline.grid.submit_driver",
        f"-- run grid.yaml --store {STORE} --set experiment.train.steps=21 --units 3",
    ):
        assert part in called.out
    assert "hidden-value" not in called.out
    assert "attempt 1 is assumed" in called.err


def test_a_job_server_that_is_not_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = CommandLine(capsys, monkeypatch)
    options = ("--store", STORE, "--working-dir", str(tmp_path))
    called = command("submit", str(tiny_grid(tmp_path)), *options, "--address", "http://127.0.0.1:9")
    assert called.code == 2
    assert re.search(r"no Ray job server answers at http://127\.0\.0\.1:9 .*correct --address", called.sentence)
    both = command("submit", str(tiny_grid(tmp_path)), *options, "--address", "http://a:1", "--kuberay", "x.yaml")
    assert "--address and --kuberay name two clusters" in both.sentence


def test_a_name_of_the_sender_travels_with_the_job(submission: Submission) -> None:
    assert set(submission.metadata) == {"grid", "store", "sender", "version"}
    assert replace(submission, store="s3://b/c").metadata["store"] == "s3://b/c"
