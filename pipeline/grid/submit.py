"""A grid sent to a cluster: which submission it is, whether one is live already, and how it ends here."""

import getpass
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline import __version__
from pipeline.config import ConfigError
from pipeline.grid.spec import GridSpec, load_grid
from pipeline.store import fingerprint, open_store
from pipeline.tracking import Target

SHOWN_DIGITS = 16
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130
STOP_WAIT_S = 60
"""Ray kills what has not ended so long after it was asked to: a driver ends within 30 s, then its logs are kept."""
SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Echo = Callable[[str], Any]
Verb = Literal["run", "tune"]


@dataclass(frozen=True)
class Submission:
    """One request to a cluster; how often it was made before is the attempt, which is not part of it.

    Attributes:
        grid: the validated grid file.
        path: the grid file as the user named it.
        store: where the cluster puts results, seen from the cluster.
        verb: what the driver does there.
        options: further arguments of the verb.
        overrides: `--set` of the user.
        env: variables of driver and workers; never secrets.
        data: folder of relative data locations on the cluster; None leaves it to PIPELINE_DATA there.
    """

    grid: GridSpec
    path: str
    store: str
    verb: Verb = "run"
    options: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    data: str | None = None

    @property
    def fingerprint(self) -> str:
        """sha256 over what is asked for: the grid, its data folder, its store and the verb."""
        asked = {"grid": self.grid.identity(), "store": self.store, "data": self.data, "verb": self.verb}
        return fingerprint("submission", 1, asked, {})

    @property
    def stem(self) -> str:
        """What the ids of all attempts begin with."""
        return f"pipeline-{self.fingerprint[:SHOWN_DIGITS]}"

    def identity(self, attempt: int) -> str:
        """The id that the cluster knows an attempt by."""
        return f"{self.stem}-{attempt}"

    def attempt_of(self, identity: str) -> int | None:
        """Which attempt an id names; None for other submissions."""
        stem, _, number = identity.rpartition("-")
        return int(number) if stem == self.stem and number.isdigit() else None

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster shows beside the id."""
        return {"grid": self.grid.name, "store": self.store, "sender": sender(), "version": __version__}

    def entrypoint(self, attempt: int, *, grid: str, with_overrides: bool = True) -> list[str]:
        """The driver's command, wrapped so that logs are kept in the store however it ends.

        Args:
            attempt: its number.
            grid: the grid file, as the driver finds it.
            with_overrides: False where the file has them applied already.
        """
        words = ["python", "-m", "pipeline.grid.submit_driver", self.identity(attempt)]
        words += [self.grid.name, self.store, "--", self.verb, grid, "--store", self.store]
        words += [] if self.data is None else ["--data", self.data]
        if with_overrides:
            words += [word for override in self.overrides for word in ("--set", override)]
        return [*words, *self.options]


def sender() -> str:
    """Who submits, for others who look at the cluster."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()


@dataclass(frozen=True)
class Known:
    """An attempt that the cluster knows.

    Attributes:
        is_live: whether it waits or runs.
        sender: who submitted it.
    """

    attempt: int
    is_live: bool
    sender: str


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        state: as the cluster calls it.
        code: exit code of the driver, where it is known.
        message: why it could not start, or what the cluster says about its end; one line.
    """

    state: Literal["SUCCEEDED", "FAILED", "STOPPED"]
    code: int | None = None
    message: str = ""

    @property
    def exit_code(self) -> int:
        """The driver's own code; 130 for one that was stopped, 3 where nobody knows."""
        if self.state == "SUCCEEDED":
            return 0
        if self.state == "STOPPED":
            return EXIT_INTERRUPTED
        return self.code if self.code is not None and 0 < self.code < 256 else EXIT_FAILED


class ClusterLost(Exception):
    """The cluster stopped answering, or no longer knows the attempt; what is finished is in the store."""


class Cluster(Protocol):
    """Where submissions go."""

    def known(self, submission: Submission) -> Sequence[Known]: ...
    def send(self, submission: Submission, attempt: int) -> bool: ...
    def follow(self, identity: str, echo: Echo) -> Ending: ...
    def stop(self, identity: str) -> None: ...
    def rendered(self, submission: Submission, attempt: int) -> str: ...


def read_submission(
    path: str,
    *,
    store: str,
    verb: Verb = "run",
    overrides: tuple[str, ...] = (),
    data: str | None = None,
    tracking: str | None = None,
    max_units: int | None = None,
    single_driver: bool = False,
    env: Sequence[str] = (),
) -> Submission:
    """Check a request as far as that is possible without the cluster.

    Raises:
        ConfigError: the grid file, or an address that means nothing on a cluster.
        StoreError: the store's address is malformed.
    """
    grid = load_grid(path, overrides)
    if "://" not in store and not Path(store).is_absolute():
        raise ConfigError(
            f"--store: {store} is a folder of this machine; name s3://BUCKET/PREFIX, or an absolute path that all "
            "hosts of the cluster see"
        )
    open_store(store)  # refuses malformed addresses; nothing is touched
    options: list[str] = []
    if tracking is not None:
        if tracking.startswith("sqlite:"):
            raise ConfigError("--tracking: a sqlite file is of no use on a cluster; name http://HOST:PORT or none")
        options += ["--tracking", tracking if tracking == "none" else Target(tracking).resolved]
    if max_units is not None:
        options += ["--units", str(max_units)]
    if single_driver:
        options.append("--single-driver")
    return Submission(grid, path, store.rstrip("/"), verb, tuple(options), overrides, variables(env), data)


def variables(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for this process's value, as a mapping.

    Raises:
        ConfigError: not a variable, not set here, or a secret: Ray shows the environment of a job to everybody.
    """
    found: dict[str, str] = {}
    for item in given:
        name, has_value, value = item.partition("=")
        if not VARIABLE.fullmatch(name):
            raise ConfigError(f"--env {item.partition('=')[0]!r:.60}: write NAME=VALUE")
        if SECRET_NAMES.search(name):
            raise ConfigError(
                f"--env {name}: a cluster shows the environment of its jobs to everybody who may look; give the "
                "variable to its hosts instead (a Secret, a role)"
            )
        if not has_value and name not in os.environ:
            raise ConfigError(f"--env {name}: the variable is not set here; write {name}=VALUE")
        found[name] = value if has_value else os.environ[name]
    return found


def submit(cluster: Cluster, submission: Submission, *, echo: Echo, tell: Echo, wait: bool = True) -> int:
    """Send a submission, or attach to the live one of the same grid, and see it to its end.

    Args:
        cluster: where to.
        submission: what.
        echo: takes the driver's output.
        tell: takes what this command says about it.
        wait: False returns as soon as it is sent.

    Returns:
        The exit code: the driver's own where it is known.
    """
    attempts = cluster.known(submission)
    live = next((item for item in attempts if item.is_live), None)
    attempt = live.attempt if live is not None else 1 + max((item.attempt for item in attempts), default=0)
    identity = submission.identity(attempt)
    is_mine = False  # until the cluster said so: a signal before that stops nobody else's work
    try:
        with interrupts():
            is_mine = live is None and cluster.send(submission, attempt)
            if is_mine:
                tell(f"submitted {identity}: {submission.verb} of grid {submission.grid.name} into {submission.store}")
            else:
                owner = f" of {live.sender}" if live is not None else ""
                tell(f"attached to {identity}{owner}, which works on this grid already; nothing was submitted")
            return _ended(cluster.follow(identity, echo), identity, tell) if wait else 0
    except ClusterLost as lost:
        tell(f"error: {identity}: {lost}; what is finished is kept, repeat the command to continue")
        return EXIT_FAILED
    except KeyboardInterrupt:
        if not is_mine:
            tell(f"left {identity}, which goes on; the same command with --cancel stops it")
            return EXIT_INTERRUPTED
    tell(f"stopping {identity}; a second signal leaves it to end by itself")
    return _stopped(cluster, identity, echo, tell)


def cancel(cluster: Cluster, submission: Submission, *, echo: Echo, tell: Echo) -> int:
    """Stop the live submission of a grid and wait for its end."""
    live = next((item for item in cluster.known(submission) if item.is_live), None)
    if live is None:
        tell(f"no submission of grid {submission.grid.name} into {submission.store} is live")
        return 0
    identity = submission.identity(live.attempt)
    code = _stopped(cluster, identity, lambda text: None, tell)
    return 0 if code == EXIT_INTERRUPTED else code


def _stopped(cluster: Cluster, identity: str, echo: Echo, tell: Echo) -> int:
    try:
        with interrupts():
            cluster.stop(identity)
            return _ended(cluster.follow(identity, echo), identity, tell)
    except ClusterLost as lost:
        tell(f"error: {identity}: {lost}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        tell(f"left {identity} before its end was seen")
        return EXIT_INTERRUPTED


def _ended(ending: Ending, identity: str, tell: Echo) -> int:
    how = {"SUCCEEDED": "is done", "STOPPED": "was stopped"}.get(ending.state, f"failed, exit code {ending.exit_code}")
    reason = f": {ending.message}" if ending.message and ending.code is None else ""
    tell(f"{identity} {how}{reason}")
    return ending.exit_code


@contextmanager
def interrupts() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, as SIGINT is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
