"""Bad input: one clear sentence and exit code 2 before any work starts, 3 where other rows could finish."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Retry, Store, open_store, verify
from pipeline.store.backend import Transient
from pipeline.store.cache import Cache
from pipeline.tracking.server import ENVIRONMENT
from tests.bad_inputs import cut_between_members, gzipped, image_tar, pictures, refusing_s3, s3_environment
from tests.grid_doubles import Called, CommandLine
from tests.grids import tiny_grid
from tests.processes import free_port
from tests.store_doubles import FakeClock, MemoryBackend, Wrapped

QUICK: dict[str, Any] = {"grid": [{"baseline": "gaussian"}], "evaluate": {"metrics": ["nll"]}}
"""A row without any training: a second from data to table."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    """The command line with a cache of its own and tracking off where nothing else is said."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_TRACKING", "RAY_ADDRESS"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PIPELINE_DATA", raising=False)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    return CommandLine(capsys, monkeypatch)


def run(command: CommandLine, grid: Path, *options: str) -> Called:
    """`run` on a store beside the grid file, without tracking unless `options` say otherwise."""
    given = {"--store": str(grid.parent / "store"), "--tracking": "none"}
    defaults = [part for name, value in given.items() if name not in options for part in (name, value)]
    return command("run", str(grid), *defaults, *options)


def assert_refused(called: Called, command: CommandLine, store: Path, sentence: str) -> None:
    """Exit code 2, one sentence that matches, nothing computed, nothing started."""
    assert called.code == 2, called
    assert re.search(sentence, called.sentence), called.sentence
    assert called.sentence.startswith("error: ")
    assert called.err.count("\n") == 1
    assert command.executors == []
    assert not (store / "artifacts").exists()


SETTINGS = {
    "unknown key": ("experiment.train.lrr=1", r"experiment\.train\.lrr: unknown key; did you mean lr\?"),
    "wrong type": ("experiment.train.steps=many", r'train\.steps: input should be a valid integer, found "many"'),
    "out of range": ("experiment.train.steps=-1", r"train\.steps: input should be greater than 0, found -1"),
    "not a number": ("experiment.train.lr=.nan", r"train\.lr: input should be a valid number"),
    "unknown kind": ("experiment.network={kind: unnet}", r"unknown kind 'unnet'; did you mean unet\?"),
    "unknown data set": ("experiment.dataset=digit", r"unknown data set 'digit'; did you mean digits\?"),
    "unknown axis": ("grid=[{baseline: ddpm, shedule: cosine}]", r"no baseline has this axis; did you mean schedule\?"),
    "impossible combination": (
        "grid=[{baseline: gud, ordering: level}]",
        r"nothing is left to run: ordering level is not defined in the pca basis; use basis haar",
    ),
    "impossible sizes": ("evaluate.batch_images=80", r"batch_images = 80 is more than block_images = 40"),
    "nothing to measure": ("evaluate.metrics=[]", r"evaluate\.metrics: .*at least 1 item"),
    "sorted by nothing": ("evaluate.primary=fid", r"primary = fid is no metric to sort by here; use nll_bpd"),
    "FID without weights": (
        "evaluate.metrics=[fid]",
        r"metrics: fid needs inception_weights, the path or URI of pt_inception.*; without that file use fd_clf",
    ),
    "a net without its digest": (
        "evaluate.feature_nets=[{kind: torchscript, name: fd_own, path: net.pt}]",
        r"feature_nets\.0\.sha256: .*required",
    ),
    "a net under a public name": (
        "evaluate.feature_nets=[{kind: plugin, name: fid, module: 'a:b'}]",
        r"name fid: a net of your own need",
    ),
    "bad name": ("name=A/b", r"name: string should match pattern"),
    "missing file": ("experiment.dataset={kind: idx, name: x, uri: no/where}", r"/no/where: no such file or folder"),
    "data folder not set": ("experiment.dataset=mnist", r"/mnist: no such file or folder; check .*PIPELINE_DATA"),
    "unsafe location": ("experiment.dataset={kind: idx, name: x, uri: 'pipe:cat x'}", r"scheme pipe: .* is not opened"),
    "no value": ("experiment.train.lr", r"write path=value, for example .*train\.lr=1e-4"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_bad_setting_is_refused_before_anything_is_touched(case: str, command: CommandLine, tmp_path: Path) -> None:
    setting, sentence = SETTINGS[case]
    called = run(command, tiny_grid(tmp_path, **QUICK), "--set", setting)
    assert_refused(called, command, tmp_path / "store", sentence)
    assert not (tmp_path / "store").exists()


def test_weights_of_another_digest_are_refused_before_anything_is_computed(
    command: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    grid = tiny_grid(tmp_path, evaluate={"metrics": ["fid"], "inception_weights": str(tmp_path / "weights.pth")})
    sentence = r"weights\.pth: .*sha256.* expected 6726825d0af5f729"
    assert_refused(run(command, grid), command, tmp_path / "store", sentence)


FILES = {
    "unknown key": ("name: x\nexperimnt: {}\n", r"grid\.yaml:2: experimnt: unknown key; did you mean experiment\?"),
    "key given twice": ("name: x\nname: y\n", r"grid\.yaml:2: name: the key is given twice; keep one"),
    "not YAML": ("name: [x\n", r"grid\.yaml:2: not valid YAML"),
    "not a mapping": ("- x\n", r"grid\.yaml: a grid file is a mapping"),
    "alias": ("name: &a x\nseeds: [*a]\n", r"grid\.yaml:1: anchors and aliases are not allowed"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_grid_file_is_refused_with_its_line(case: str, command: CommandLine, tmp_path: Path) -> None:
    text, sentence = FILES[case]
    (tmp_path / "grid.yaml").write_text(text)
    assert_refused(run(command, tmp_path / "grid.yaml"), command, tmp_path / "store", sentence)


@pytest.mark.parametrize("verb", ["plan", "run", "status", "table", "sync"])
def test_a_missing_grid_file_is_named_by_every_verb(verb: str, command: CommandLine, tmp_path: Path) -> None:
    called = command(verb, str(tmp_path / "none.yaml"), "--store", str(tmp_path / "store"))
    assert_refused(called, command, tmp_path / "store", r"none\.yaml: cannot be read \(No such file or directory\)")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rnu", "grid.yaml"), r"No such command 'rnu'"),
        (("run",), r"Missing argument 'GRID'; `python -m pipeline run --help`"),
        (("run", "grid.yaml", "--units", "0"), r"'--units': 0 is not in the range"),
        (("run", "grid.yaml", "--stroe", "x"), r"No such option '--stroe'.*'--store'"),
        (("stage", "trian", "grid.yaml"), r"'trian' is not one of"),
    ],
)
def test_a_mistyped_command_is_one_sentence(arguments: tuple[str, ...], sentence: str, command: CommandLine) -> None:
    assert_refused(command(*arguments), command, Path("nowhere"), sentence)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--tracking", "file:///x", r"not a tracking address; use sqlite:///FILE\.db or http://HOST:PORT"),
        ("--tracking", "http://me:secret@host", r"--tracking: the address holds a user name or password"),
        ("--store", "gs://bucket", r"a store is a directory or s3://bucket/prefix"),
    ],
)
def test_an_unusable_address_is_refused(
    option: str, value: str, sentence: str, command: CommandLine, tmp_path: Path
) -> None:
    called = run(command, tiny_grid(tmp_path, **QUICK), option, value)
    assert_refused(called, command, tmp_path / "store", sentence)
    assert "secret" not in called.out + called.err


def test_a_cluster_that_does_not_answer_is_named_at_once(command: CommandLine, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    called = run(command, tiny_grid(tmp_path, **QUICK), "--address", address)
    assert_refused(called, command, tmp_path / "store", rf"no Ray cluster answers at {address} .*Connection refused")


def test_sync_needs_somewhere_to_send_to(command: CommandLine, tmp_path: Path) -> None:
    called = command("sync", str(tiny_grid(tmp_path, **QUICK)), "--store", "s3://bucket/prefix")
    assert_refused(called, command, tmp_path / "store", r"--tracking: name an MLflow server")


TARS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut inside a member": (lambda tar: tar[: len(tar) // 2 + 700], "it is cut"),
    "cut between members": (cut_between_members, "the tar has no end mark at byte .*; it is cut or damaged"),
    "cut inside a header": (lambda tar: cut_between_members(tar)[:-300], "cut"),
    "tar.gz cut": (lambda tar: gzipped(tar)[:-500], "not a readable gzip file .*; it is cut or damaged"),
    "no tar at all": (lambda tar: b"<html>404 not found</html>" * 60, "cut or damaged"),
    "empty": (lambda tar: b"", "cut or damaged"),
}


@pytest.mark.parametrize("case", TARS)
def test_a_truncated_tar_is_refused_before_anything_starts(case: str, command: CommandLine, tmp_path: Path) -> None:
    damage, sentence = TARS[case]
    (tmp_path / "pictures.tar").write_bytes(damage(image_tar()))
    grid = tiny_grid(tmp_path, **QUICK, experiment={"dataset": pictures(tmp_path / "pictures.tar", max_train=None)})
    for _ in range(2):  # the second time, too
        assert_refused(run(command, grid), command, tmp_path / "store", rf"pictures\.tar.*{sentence}")


def test_a_wrong_digest_is_refused_with_both(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "pictures.tar").write_bytes(image_tar())
    source = pictures(tmp_path / "pictures.tar", max_train=None, digest="0" * 64)
    called = run(command, tiny_grid(tmp_path, **QUICK, experiment={"dataset": source}))
    sentence = r"pictures\.tar has digest [0-9a-f]{64}, expected 0{64}; the data changed or the digest is wrong"
    assert_refused(called, command, tmp_path / "store", sentence)
    assert not (tmp_path / "store").exists()


def test_a_damaged_picture_in_a_whole_tar_is_named_when_it_is_read(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "pictures.tar").write_bytes(image_tar(bad="test/1/17.png"))
    source = pictures(tmp_path / "pictures.tar", max_train=None)
    called = run(command, tiny_grid(tmp_path, **QUICK, experiment={"dataset": source}))
    assert called.code == 2
    assert re.search(r"pictures\.tar/test/1/17\.png: ", called.sentence)
    assert list(open_store(tmp_path / "store").keys()) == []
    assert [executor.is_closed for executor in command.executors] == [True]


def test_a_corrupt_data_set_beside_a_good_one_is_exit_3_until_it_is_mended(
    command: CommandLine, tmp_path: Path
) -> None:
    tar = image_tar()
    (tmp_path / "pictures.tar").write_bytes(tar[: len(tar) // 2])
    source = pictures(tmp_path / "pictures.tar")
    grid = tiny_grid(tmp_path, **QUICK | {"grid": [{"baseline": "gaussian", "dataset": ["digits", source]}]})
    first, second = run(command, grid), run(command, grid)
    for called in (first, second):
        assert (called.code, called.err) == (3, "")
        (failed,) = [line for line in called.out.splitlines() if line.startswith("failed: ")]
        assert re.search(r"ingest pictures: DataError: .*pictures\.tar: .*cut", failed)
        assert "1 of 2 rows are not finished" in called.out
    assert "stages executed: none" in second.out
    assert len(command.executors) == 1, "the second time there is nothing that could be done"
    (tmp_path / "pictures.tar").write_bytes(tar)
    assert run(command, grid).code == 0


def test_one_bad_cell_does_not_stop_the_others(command: CommandLine, tmp_path: Path) -> None:
    bad = {"baseline": "ddpm", "train.lr": 1e30, "train.clip_norm": None}
    called = run(command, tiny_grid(tmp_path, **QUICK | {"grid": [bad, {"baseline": ["ddpm", "gaussian"]}]}))
    assert called.code == 3
    (failed,) = [line for line in called.out.splitlines() if line.startswith("failed: ")]
    assert "Diverged" in failed
    assert "1 of 3 rows are not finished" in called.out
    assert "Traceback" not in called.out + called.err


@pytest.mark.parametrize("verb", ["run", "status", "table", "sync"])
def test_a_store_below_a_file_is_refused(verb: str, command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    called = command(verb, str(tiny_grid(tmp_path, **QUICK)), "--store", str(tmp_path / "file" / "store"))
    assert_refused(called, command, tmp_path / "store", r"file/store.*: Not a directory; .*choose another store")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so the test steps down for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_read_only_store_is_refused(command: CommandLine) -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        grid = tiny_grid(Path(parent), **QUICK)
        store = Path(parent) / "store"
        store.mkdir(mode=0o555)
        with unprivileged():
            called = run(command, grid)
        assert_refused(called, command, store, rf"{store}.*: Permission denied; give this user write access")
        assert list(store.iterdir()) == []


def test_an_s3_that_does_not_answer_is_refused_within_seconds(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    called = run(command, tiny_grid(tmp_path, **QUICK), "--store", "s3://bucket/prefix")
    sentence = rf"the store s3://bucket/prefix does not answer .*{endpoint}.*check the address \(AWS_ENDPOINT_URL\)"
    assert_refused(called, command, tmp_path / "store", sentence)


def test_an_s3_that_forbids_is_refused_at_the_first_request(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with refusing_s3() as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        called = run(command, tiny_grid(tmp_path, **QUICK), "--store", "s3://bucket/prefix")
    sentence = r"s3://bucket/prefix .*refuses the request \(403 AccessDenied\): check credentials, permissions"
    assert_refused(called, command, tmp_path / "store", sentence)
    assert called.err.count("\n") == 1, "no retry can help"


def test_a_missing_bucket_is_refused(command: CommandLine, s3_url: str, tmp_path: Path) -> None:
    called = run(command, tiny_grid(tmp_path, **QUICK), "--store", "s3://no-such-bucket/prefix")
    assert_refused(called, command, tmp_path / "store", r"bucket of s3://no-such-bucket.* does not exist: create it")


class Outage:
    """A store in memory that answers 503 for some calls, from the first write of a statistics artifact on."""

    def __init__(self, folder: Path, *, num_calls: int) -> None:
        self.clock = FakeClock()
        self.left = num_calls
        self.has_begun = False
        self.memory = MemoryBackend()
        self.store = Store(Wrapped(self.memory, self._around), cache=Cache(folder), retry=Retry(clock=self.clock))

    def _around(self, operation: str, key: str, do: Callable[[], Any]) -> Any:
        self.has_begun |= operation.startswith("put") and key.startswith("artifacts/statistics/")
        if self.has_begun and self.left > 0:
            self.left -= 1
            raise Transient("503 SlowDown")
        return do()


def test_an_s3_that_fails_for_a_while_is_waited_for(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outage = Outage(tmp_path / "cache", num_calls=6)
    monkeypatch.setattr("pipeline.grid.session.open_store", lambda url: outage.store)
    called = run(command, tiny_grid(tmp_path, **QUICK))
    assert called.code == 0, called
    assert outage.left == 0
    assert len(outage.clock.waits) == 6
    assert "failed" not in called.out


def test_an_s3_that_stays_away_ends_the_run_after_its_budget_and_the_same_command_continues(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outage = Outage(tmp_path / "cache", num_calls=10**6)
    monkeypatch.setattr("pipeline.grid.session.open_store", lambda url: outage.store)
    grid = tiny_grid(tmp_path, **QUICK)
    called = run(command, grid)
    assert called.code == 3, called
    assert re.search(r"503 SlowDown \(\d+ tries in \d{3} s\); .*repeat the command", called.sentence)
    assert [executor.is_closed for executor in command.executors] == [True]
    assert 540 < outage.clock.seconds < 3700
    outage.left = 0
    outage.memory.seconds += 60  # the lease could not be given back, so it has to run out
    again = run(command, grid)
    assert again.code == 0, again
    assert "stages executed: statistics 1, likelihood 2, result 1" in again.out, "what was finished is not done again"
    assert verify(outage.store) == []


def test_a_second_driver_is_told_who_the_first_one_is(command: CommandLine, tmp_path: Path) -> None:
    grid = tiny_grid(tmp_path, **QUICK)
    with open_store(tmp_path / "store").lease("grids/tiny", owner="node7:4711", ttl_s=15.0):
        called = run(command, grid)
    assert called.code == 4
    assert re.search(r"another driver works on this grid: held by node7:4711, renewed \d s ago; ", called.sentence)
    assert command.executors == []
    assert not (tmp_path / "store" / "artifacts").exists()
    assert run(command, grid).code == 0


def test_tracking_that_is_down_costs_one_warning_and_nothing_else(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tracking_uri: str, tmp_path: Path
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # so that the test's end restores the environment
    grid, dead = tiny_grid(tmp_path, **QUICK), f"http://127.0.0.1:{free_port()}"
    outbox = tmp_path / "store" / "grids" / "tiny" / "outbox"
    called = run(command, grid, "--tracking", dead)
    assert (called.code, called.err) == (0, "")
    (warning,) = [line for line in called.out.splitlines() if line.startswith("warning: ")]
    assert dead in warning
    assert "1 records are kept in the outbox of grid tiny" in warning
    assert list(outbox.glob("*"))

    def sync(uri: str) -> Called:
        return command("sync", str(grid), "--store", str(tmp_path / "store"), "--tracking", uri)

    assert sync(dead).code == 3, "sync has not done what it was asked for"
    sent = sync(tracking_uri)
    assert (sent.code, "warning" in sent.out) == (0, False), sent
    assert list(outbox.glob("*")) == []
    assert sync(tracking_uri).out == sent.out
