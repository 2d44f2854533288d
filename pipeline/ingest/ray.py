"""Shards mapped in parallel by Ray tasks; a task carries whole shards, so a repeated one gives the same bytes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

Job = TypeVar("Job")
Result = TypeVar("Result")


class RayShardMap:
    """A `ShardMap` over Ray tasks, with results in the order of the jobs; Ray must have been started.

    Args:
        num_cpus: CPUs per task.
        max_in_flight: tasks that may be submitted ahead of the result that is read; bounds the object store. None:
            twice the cluster's CPUs.
    """

    def __init__(self, *, num_cpus: float = 1.0, max_in_flight: int | None = None) -> None:
        self._num_cpus = num_cpus
        self._max_in_flight = max_in_flight

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job], /) -> Iterator[Result]:
        limit = self._max_in_flight or max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        remote = ray.remote(function).options(
            num_cpus=self._num_cpus,
            max_retries=3,  # of lost workers; an exception of the function itself is raised at once
        )
        waiting = deque(jobs)
        running: deque[Any] = deque()
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    running.append(remote.remote(waiting.popleft()))
                yield _unwrapped(running.popleft())
        finally:
            for reference in running:
                ray.cancel(reference)


def _unwrapped(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
