"""Several cells, one after another, on one group of workers: finished ones are committed at once, bad ones recorded."""

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipeline.store import Artifact, Key, Store
from pipeline.train.group import Group, GroupBroken
from pipeline.train.heartbeat import OnStuck
from pipeline.train.outcome import WORKER_LOST, Failure, Stopped
from pipeline.train.progress import Progress
from pipeline.train.spec import TrainTask
from pipeline.train.stage import train, write
from pipeline.train.state import CellState
from pipeline.train.status import MAX_FRUITLESS_STARTS, StatusBoard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One training of a group: where its artifact goes, what is trained, and the keys of its inputs."""

    key: Key
    task: TrainTask
    inputs: Mapping[str, Key]
    label: str = ""


def train_cells(
    cells: Sequence[Cell],
    store: Store,
    *,
    group: Group,
    device: torch.device,
    board: StatusBoard | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_stuck: OnStuck | None = None,
) -> dict[Key, Failure]:
    """Train each cell that is not in the store yet; every worker of `group` calls it with equal cells.

    Args:
        cells: in the order of work.
        store: holds the inputs; receives artifacts and resumable state.
        group: the workers.
        device: of this worker.
        board: where rank 0 tells about progress, and remembers failures over a restart of the group.
        should_stop: true on one worker ends the group after the running step.
        on_stuck: called in a thread when a training stands still, see `Heartbeat`.

    Returns:
        What went wrong, by key; cells that are done are absent. The same on every worker.

    Raises:
        GroupBroken: a collective failed; finished cells are in the store, the running one continues from its state.
        Stopped: `should_stop` said so.
    """
    failures: dict[Key, Failure] = {}
    for cell in cells:
        failure = _GroupCell(cell, store, group, board if group.is_first else None).run(device, should_stop, on_stuck)
        if failure is not None:
            failures[cell.key] = failure
    return failures


class _GroupCell:
    """One cell on its way through the group; every step of it ends with an agreement of all workers."""

    def __init__(self, cell: Cell, store: Store, group: Group, board: StatusBoard | None) -> None:
        self.cell, self.store, self.group, self.board = cell, store, group, board
        self.state = store.state(cell.key.stage, cell.key.fingerprint)
        self.fields: dict[str, Any] = {"label": cell.label, "steps": cell.task.train.steps}
        self.fields |= {"host": socket.gethostname(), "pid": os.getpid(), "workers": group.size}

    def run(self, device: torch.device, should_stop: Callable[[], bool], on_stuck: OnStuck | None) -> Failure | None:
        """Train and commit, or say what is wrong."""
        is_done, failure = self._decision()
        if is_done:
            self._tell({"state": "done"})
        if is_done or failure is not None:
            return failure
        log.info("event=train_start cell=%r key=%s", self.cell.label, self.cell.key.short)
        if self.group.size > self.cell.task.train.chunks:
            log.warning(
                "event=more_workers_than_chunks cell=%r workers=%d chunks=%d: another world size gives other last bits",
                self.cell.label,
                self.group.size,
                self.cell.task.train.chunks,
            )
        inputs: dict[str, Artifact] = {}
        try:
            inputs = self._inputs()
        except Exception as error:  # the boundary of a cell
            failure = Failure.of(error)
        failure = self._agreed(failure)
        if failure is None:
            failure = self._agreed(self._trained(inputs, device, should_stop, on_stuck))
        if self.group.is_first:
            self._tell({"state": "done"} if failure is None else {"state": "failed", "failure": asdict(failure)})
        return failure

    def _trained(
        self,
        inputs: Mapping[str, Artifact],
        device: torch.device,
        should_stop: Callable[[], bool],
        on_stuck: OnStuck | None,
    ) -> Failure | None:
        """Train on all workers, commit on the first."""
        is_first = self.group.is_first
        try:
            trained = train(
                self.cell.task,
                inputs,
                device=device,
                group=self.group,
                state=self.state if is_first else None,
                report=self._report if is_first else None,
                should_stop=should_stop,
                on_stuck=on_stuck,
            )
            if is_first:
                self._commit(trained)
        except (GroupBroken, Stopped):
            raise
        except Exception as error:  # the boundary of a cell
            return Failure.of(error)
        return None

    def _commit(self, trained: CellState) -> None:
        cell = self.cell
        with self.store.attempt(cell.key, identity=cell.task.identity(), inputs=dict(cell.inputs)) as attempt:
            attempt.commit(write(trained, attempt))
        self.state.clear()

    def _inputs(self) -> dict[str, Artifact]:
        found: dict[str, Artifact] = {}
        for name, key in self.cell.inputs.items():
            artifact = self.store.find(key)
            if artifact is None:
                raise RuntimeError(f"input {name} ({key.short}) is not in the store")
            found[name] = artifact
        return found

    def _agreed(self, failure: Failure | None) -> Failure | None:
        """The first worker's failure of all, the same on every worker; None if there is none."""
        texts = self.group.texts("" if failure is None else failure.to_text())
        return next((Failure.from_text(text) for text in texts if text), None)

    def _decision(self) -> tuple[bool, Failure | None]:
        """Whether the cell is done already, or known to fail; rank 0 decides."""
        answer: bytes | None = None
        if self.group.is_first:
            is_done, known = False, None
            try:
                is_done = self.store.find(self.cell.key) is not None
                known = None if is_done else self._known_failure()
            except Exception as error:  # the boundary of a cell; the others wait for an answer
                known = Failure.of(error)
            answer = json.dumps([is_done, None if known is None else known.to_text()]).encode()
        received = self.group.from_first(answer)
        assert received is not None
        is_done, text = json.loads(received)
        return bool(is_done), None if text is None else Failure.from_text(text)

    def _known_failure(self) -> Failure | None:
        """A failure before this run's last restart, or too many restarts by this very cell."""
        if self.board is None:
            return None
        status = self.board.get(self.cell.key)
        if status.get("failure"):
            return Failure(**status["failure"])
        saved = self.state.latest()
        start_step = 0 if saved is None else saved.step
        starts = int(status.get("starts", 0)) if status.get("start_step") == start_step else 0
        if starts >= MAX_FRUITLESS_STARTS:
            failure = Failure(
                WORKER_LOST, f"workers died {starts} times after step {start_step} of this training", is_lost=True
            )
            self._tell({"state": "failed", "failure": asdict(failure)})
            return failure
        self._tell({"state": "running", "starts": starts + 1, "start_step": start_step, "step": start_step})
        return None

    def _tell(self, fields: dict[str, Any]) -> None:
        """Write the cell's document before anything else happens."""
        self.fields |= fields
        if self.board is not None:
            self.board.put_now(self.cell.key, self.fields)

    def _report(self, measured: Progress) -> None:
        self.fields |= measured.to_json()
        if self.board is not None:
            self.board.put(self.cell.key, dict(self.fields))
