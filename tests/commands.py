"""The command line as users call it: a process of its own, and what it left in the store."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.store import open_store

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Finished:
    """Exit code and everything printed."""

    code: int
    output: str


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command: Ray's authentication explicit, no telemetry, this checkout importable."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    fixed = {"RAY_AUTH_MODE": "disabled", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(ROOT)}
    return {**clean, **fixed, **extra}


def start(*arguments: str, **extra: str) -> "subprocess.Popen[str]":
    """`python -m pipeline ...` in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str, timeout_s: float = 400, **extra: str) -> Finished:
    """Run a command to its end."""
    process = start(*arguments, **extra)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return Finished(process.returncode, output)


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL for the driver alone, as a crash or the memory killer would do it; then its orphans, by their session."""
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


def wait_until(condition: Callable[[], Any], timeout_s: float, process: "subprocess.Popen[str] | None" = None) -> None:
    """Look often until a condition holds.

    Raises:
        AssertionError: it did not hold in time, or the process ended before.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        assert process is None or process.poll() is None, f"the process ended: {process.communicate()[0]}"
        time.sleep(0.05)


def contents(store: str) -> dict[str, dict[str, str]]:
    """sha256 of every file of every artifact: attempt names and times are left out."""
    opened = open_store(store)
    found: dict[str, dict[str, str]] = {}
    for key in list(opened.keys()):
        artifact = opened.find(key)
        assert artifact is not None
        found[str(key)] = {name: entry.sha256 for name, entry in artifact.files.items()}
    return found
