"""Data sets that cannot be read, found before anything is started; nothing is decoded but what opening needs."""

from collections.abc import Iterable

from pipeline.config import DataError
from pipeline.grid.schedule import Outcome
from pipeline.grid.tasks import Task
from pipeline.ingest.sources import SourceSpec
from pipeline.train.outcome import Failure


def unreadable(tasks: Iterable[Task]) -> list[Outcome]:
    """The failures of those data sets among `tasks` that cannot be opened: cut, damaged, or not what the grid says."""
    outcomes: list[Outcome] = []
    for task in tasks:
        if isinstance(task.spec, SourceSpec):
            try:
                task.spec.opened()
            except DataError as error:
                outcomes.append(Outcome(task.key, Failure.of(error)))
    return outcomes
