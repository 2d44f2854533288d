"""Submissions to a running Ray cluster, by its job server."""

import asyncio
import json
import logging
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.grid.submit import STOP_WAIT_S, ClusterLost, Echo, Ending, Known, Submission

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
PATIENCE_S = 120.0
"""How long a cluster that answered before may be away, for example while its network heals."""


def job_server(address: str | None) -> str:
    """The http address of the job server: as asked, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS.

    Raises:
        ConfigError: none is given, or it is no http address.
    """
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not found:
        raise ConfigError("--address: name the cluster's job server, http://HEAD:8265, or a RayJob with --kuberay")
    if not found.startswith(("http://", "https://")):
        raise ConfigError(f"--address: {found} is no job server; it is http://HEAD:8265, not the port of Ray itself")
    return found.rstrip("/")


def prepare_client() -> None:
    """Set what Ray reads once, before it is imported: with a token at hand it is sent, without one it is not asked for;
    and no variable may lead to another cluster than the one that was named."""
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)


class RayJobs:
    """The job server of one cluster; its client is made when it is needed.

    Args:
        address: http address.
        working_dir: folder that is uploaded and becomes the driver's and the workers' working directory.
    """

    def __init__(self, address: str, working_dir: str = ".") -> None:
        self.address = address
        self.working_dir = Path(working_dir).absolute()
        self._made: Any = None
        self._seen: dict[str, int] = {}

    @property
    def _client(self) -> Any:
        if self._made is None:
            prepare_client()
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient

            logging.getLogger("ray").setLevel(logging.WARNING)
            logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
            try:
                self._made = JobSubmissionClient(self.address)
            except AuthenticationError as error:
                first = " ".join(str(error).partition("\n")[0].split())
                raise ConfigError(
                    f"the Ray cluster at {self.address} refuses the token ({first}); set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's own"
                ) from None
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                first = " ".join(str(error).partition("\n")[0].split())
                raise ConfigError(f"no Ray job server answers at {self.address} ({first}); correct --address") from None
        return self._made

    def rendered(self, submission: Submission, attempt: int) -> str:
        """The same request as a `ray job submit` command."""
        words = ["ray", "job", "submit", "--address", self.address, "--no-wait"]
        words += ["--submission-id", submission.identity(attempt), "--working-dir", str(self.working_dir)]
        words += ["--runtime-env-json", json.dumps({"env_vars": _environment(submission)})]
        words += ["--metadata-json", json.dumps(submission.metadata), "--", *self._entrypoint(submission, attempt)]
        return shlex.join(words)

    def _entrypoint(self, submission: Submission, attempt: int) -> list[str]:
        path = Path(submission.path).absolute()
        if not path.is_relative_to(self.working_dir):
            raise ConfigError(
                f"{submission.path} is not below the folder that is uploaded ({self.working_dir}); move it there or "
                "name another --working-dir"
            )
        return submission.entrypoint(attempt, grid=path.relative_to(self.working_dir).as_posix())

    def known(self, submission: Submission) -> Sequence[Known]:
        """Attempts that the cluster remembers."""
        found: list[Known] = []
        for job in self._client.list_jobs():
            attempt = submission.attempt_of(job.submission_id or "")
            if attempt is not None:
                sender = (job.metadata or {}).get("sender", "somebody")
                found.append(Known(attempt, not job.status.is_terminal(), sender))
        return found

    def send(self, submission: Submission, attempt: int) -> bool:
        """Submit; False if the id was taken in the meantime.

        Raises:
            ConfigError: the cluster refuses the job.
        """
        entrypoint = shlex.join(self._entrypoint(submission, attempt))
        client = self._client
        try:
            client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission.identity(attempt),
                metadata=submission.metadata,
                runtime_env={"working_dir": str(self.working_dir), "env_vars": _environment(submission)},
            )
        except (RuntimeError, ValueError, OSError) as error:
            if f"{submission.identity(attempt)} already exists" in str(error):
                return False
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ConfigError(f"the Ray cluster at {self.address} refuses the job: {lines[-1]:.300}") from None
        return True

    def follow(self, identity: str, echo: Echo) -> Ending:
        """Pass the driver's output on until it has ended.

        Raises:
            ClusterLost: nobody answered for a while, or the job is not known any more.
        """
        lost_at = None
        while True:
            try:
                asyncio.run(self._tail(identity, echo))
            except Exception as error:  # the output is one thing, how the job is doing another
                log.info("event=output_interrupted submission=%s error=%r", identity, error)
            try:
                info = self._client.get_job_info(identity)
            except Exception as error:  # requests and Ray raise classes of their own; all mean: not now
                if "does not exist" in str(error):
                    raise ClusterLost(
                        "the cluster does not know it any more (a new head starts from nothing)"
                    ) from None
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_S:
                    raise ClusterLost(f"the cluster has not answered for {PATIENCE_S:.0f} s") from None
                log.info("event=cluster_away submission=%s error=%r", identity, error)
                time.sleep(LOOK_EVERY_S)
                continue
            lost_at = None
            if info.status.is_terminal():
                message = " ".join((info.message or "").partition("\n")[0].split())
                return Ending(info.status.value, info.driver_exit_code, message)
            time.sleep(LOOK_EVERY_S)

    async def _tail(self, identity: str, echo: Echo) -> None:
        """The output that was not passed on yet; a new connection begins at its start."""
        position = 0
        async for text in self._client.tail_job_logs(identity):
            seen = self._seen.get(identity, 0)
            new = text[max(0, seen - position) :]
            position += len(text)
            if new:
                self._seen[identity] = position
                echo(new)

    def stop(self, identity: str) -> None:
        """Ask the driver to end; it has a minute.

        Raises:
            ClusterLost: the cluster does not answer.
        """
        try:
            self._client.stop_job(identity)
        except (RuntimeError, OSError) as error:
            raise ClusterLost(" ".join(str(error).split())[:200]) from None


def _environment(submission: Submission) -> dict[str, str]:
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **submission.env}
