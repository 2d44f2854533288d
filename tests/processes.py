"""Servers as child processes of a test: own session, output in a file, ended by the session's id."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_answering(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_until(is_true: Callable[[], bool], *, timeout_s: float, what: str, child: "Child | None" = None) -> None:
    """Polls; fails with the tail of the child's output if it ends or takes too long."""
    end = time.monotonic() + timeout_s
    while not is_true():
        is_over = child is not None and child.process.poll() is not None
        if is_over or time.monotonic() > end:
            tail = child.output.read_text(errors="replace")[-2000:] if child is not None else ""
            raise AssertionError(f"{what}: {'process ended' if is_over else f'not after {timeout_s:.0f} s'}\n{tail}")
        time.sleep(0.1)


class Child:
    """A process that leads its own session."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], output: Path, cwd: Path | None = None
    ) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self.output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def descendants(self) -> list[int]:
        """Live processes of this child's session: its children keep the session even in groups of their own."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    if int(session) == self.pid and state != "Z":
                        found.append(int(entry.name))
        return found

    def stop(self, *, grace_s: float = 5.0) -> None:
        """SIGTERM to the group, SIGKILL for what is left of the session after the grace."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        for _ in range(3):  # a process that is killed may have started another one
            for pid in self.descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(10.0)


@contextlib.contextmanager
def running(
    command: Sequence[str], *, env: Mapping[str, str], output: Path, cwd: Path | None = None, grace_s: float = 5.0
) -> Iterator[Child]:
    child = Child(command, env=env, output=output, cwd=cwd)
    try:
        yield child
    finally:
        child.stop(grace_s=grace_s)
