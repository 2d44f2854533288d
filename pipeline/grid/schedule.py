"""Which task runs next: dependencies, a CPU budget, retries, and stopping on a bug that is common to all."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.grid.tasks import STAGES, Task
from pipeline.store import Key
from pipeline.train.outcome import Failure

log = logging.getLogger(__name__)

MAX_LOST = 3
"""How often a task may lose its worker before it counts as failed."""
SYSTEMATIC = 3
"""So many equal failures of a stage without one success stop the grid: the bug is common to all cells."""


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"


def signature(failure: Failure) -> str:
    """What two failures of the same cause have in common: class and first line."""
    first_line = failure.message.splitlines()[0] if failure.message else ""
    return f"{failure.kind}: {first_line}"[:300]


@dataclass(frozen=True)
class Outcome:
    """What became of one task."""

    key: Key
    failure: Failure | None = None
    seconds: float = 0.0  # that the task ran; 0 where nobody measured


@dataclass
class Schedule:
    """Bookkeeping of the tasks that have to be run; knows nothing about where they run."""

    tasks: Mapping[Key, Task]
    states: dict[Key, State] = field(init=False)
    failures: dict[Key, Failure] = field(default_factory=dict[Key, Failure])
    stopped: str | None = None

    def __post_init__(self) -> None:
        self.states = dict.fromkeys(self.tasks, State.WAITING)
        self._children: dict[Key, list[Key]] = {key: [] for key in self.tasks}
        for key, task in self.tasks.items():
            for parent in set(task.inputs.values()):
                if parent in self.tasks:
                    self._children[parent].append(key)
        self._attempts: Counter[Key] = Counter()
        self._lost: Counter[Key] = Counter()
        self._order = {stage: index for index, stage in enumerate(STAGES)}

    def ready(self) -> list[Task]:
        """Tasks whose inputs exist, those nearest to a result first."""
        if self.stopped:
            return []
        ready = [
            task for key, task in self.tasks.items() if self.states[key] is State.WAITING and self._has_inputs(task)
        ]
        return sorted(ready, key=lambda task: -self._order[task.stage])

    def _has_inputs(self, task: Task) -> bool:
        return all(self.states.get(key, State.DONE) is State.DONE for key in task.inputs.values())

    def start(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self.states[task.key] = State.RUNNING

    def settle(self, outcome: Outcome) -> State:
        """Record an outcome and return the task's new state (waiting again when it is retried)."""
        key, failure = outcome.key, outcome.failure
        if failure is None:
            self.states[key] = State.DONE
            self.failures.pop(key, None)
            return State.DONE
        previous = self.failures.get(key)
        self.failures[key] = failure
        if failure.is_lost:
            self._lost[key] += 1
            retry = self._lost[key] <= MAX_LOST
        else:
            self._attempts[key] += 1
            is_new = previous is None or signature(previous) != signature(failure)
            retry = self._attempts[key] <= 2 and is_new and failure.kind not in FINAL
        if retry:
            log.warning("event=retry task=%r reason=%r", self.tasks[key].label, signature(failure))
            self.states[key] = State.WAITING
            return State.WAITING
        self.states[key] = State.FAILED
        self._block_children(key)
        self._stop_if_systematic(self.tasks[key].stage, failure)
        return State.FAILED

    def _block_children(self, key: Key) -> None:
        for child in self._children[key]:
            if self.states[child] in (State.WAITING, State.RUNNING):
                self.states[child] = State.BLOCKED
                self._block_children(child)

    def _stop_if_systematic(self, stage: str, failure: Failure) -> None:
        of_stage = [key for key, task in self.tasks.items() if task.stage == stage]
        if any(self.states[key] is State.DONE for key in of_stage):
            return
        equal = [key for key in of_stage if key in self.failures and self.states[key] is State.FAILED]
        if len(equal) >= SYSTEMATIC and {signature(self.failures[key]) for key in equal} == {signature(failure)}:
            self.stopped = f"{len(equal)} {stage} tasks failed alike and none succeeded ({signature(failure)})"

    @property
    def is_finished(self) -> bool:
        active = (State.RUNNING,) if self.stopped else (State.RUNNING, State.WAITING)
        return not any(state in active for state in self.states.values())

    def counts(self) -> dict[str, dict[str, int]]:
        """Tasks per stage and state."""
        table: dict[str, Counter[str]] = {}
        for key, task in self.tasks.items():
            table.setdefault(task.stage, Counter())[self.states[key].value] += 1
        return {stage: dict(table[stage]) for stage in self._order if stage in table}


DAMAGED = "ArtifactDamaged"
FINAL = frozenset({"ConfigError", "DataError", "Diverged", "StoreError", DAMAGED})
"""Failures that another attempt of the same task cannot cure."""


def balanced(tasks: list[Task], num_groups: int) -> list[list[Task]]:
    """Split tasks into groups of about equal weight: the largest first, each to the lightest group."""
    groups: list[list[Task]] = [[] for _ in range(min(num_groups, len(tasks)))]
    loads = [0.0] * len(groups)
    for task in sorted(tasks, key=lambda task: (-task.weight, task.key.fingerprint)):
        lightest = loads.index(min(loads))
        groups[lightest].append(task)
        loads[lightest] += task.weight
    return groups
