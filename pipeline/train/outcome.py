"""How the training of a cell can end other than with weights."""

import json
import traceback
from dataclasses import asdict, dataclass

from pipeline.train.group import Group

_TRACEBACK_CHARACTERS = 4000
OUT_OF_MEMORY = "OutOfMemory"
WORKER_LOST = "WorkerLost"


@dataclass(frozen=True)
class Failure:
    """What is recorded about a failed cell.

    Attributes:
        kind: the exception's class name, `OutOfMemory`, or `WorkerLost`.
        message: what it said.
        details: the end of the traceback.
        is_lost: the worker died under the cell, so that another attempt may well succeed.
    """

    kind: str
    message: str
    details: str = ""
    is_lost: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe `error`; a failure that another worker reported is passed on as it is."""
        if isinstance(error, WorkerFailed):
            return error.failure
        text = "".join(traceback.format_exception(error))
        return cls(_kind_of(error), str(error), text[-_TRACEBACK_CHARACTERS:])

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Failure":
        return cls(**json.loads(text))


class Diverged(RuntimeError):
    """More non-finite steps in a row than `max_skips`; the last good state is kept."""


class Stopped(RuntimeError):
    """Asked to stop (SIGTERM, preemption); the state is saved and the same command continues."""


class WorkerFailed(RuntimeError):
    """Another worker of the group failed; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.message}")
        self.failure = failure


def raise_together(error: Exception | None, group: Group) -> None:
    """Raise on every worker if one of them has an error: its own on that one, `WorkerFailed` on the others."""
    texts = group.texts("" if error is None else Failure.of(error).to_text())
    if error is not None:
        raise error
    for text in texts:
        if text:
            raise WorkerFailed(Failure.from_text(text))


def _kind_of(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return OUT_OF_MEMORY
    return type(error).__name__
