"""Runs the tasks of deduplication in this process, or on the cluster if Ray is connected."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from tirazh.errors import JobError, TirazhError

_TASKS_PER_CPU = 2  # that are submitted at the same time: so many still run after an error
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


class Run(Protocol):
    """Calls a function for every item and yields the results in the order of the items.

    `shared` is the first argument of every call. The function is a module's, so that it can be sent to a worker.
    """

    def __call__(self, function: Callable[[S, T], R], shared: S, items: Sequence[T]) -> Iterator[R]:
        """Yield `function(shared, item)` for each item."""


def run_here(function: Callable[[S, T], R], shared: S, items: Sequence[T]) -> Iterator[R]:
    """Run the tasks one after the other in this process."""
    for item in items:
        yield function(shared, item)


def run_on_ray(function: Callable[[S, T], R], shared: S, items: Sequence[T]) -> Iterator[R]:
    """Run the tasks on the connected Ray, one CPU each.

    Raises the TirazhError of a task, JobError if its worker dies more than three times.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    task: Any = ray.remote(function).options(num_cpus=1, max_retries=3)
    stored = ray.put(shared)
    rest = iter(items)
    at_once = _TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(task.remote(stored, item) for item in itertools.islice(rest, at_once))
    # After an error the tasks that run are left to their end. Ray 2.60 ends the whole process ("Tried to complete task
    # that was not pending") if a task that is cancelled completes in the same moment.
    while waiting:
        try:
            result = ray.get(waiting[0])
        except RayTaskError as error:
            if isinstance(error.cause, TirazhError):
                raise error.cause from error
            raise
        except RayError as error:
            raise JobError(f"a task of --dedup failed: {type(error).__name__}; run the job again") from error
        waiting.popleft()
        waiting.extend(task.remote(stored, item) for item in itertools.islice(rest, 1))
        yield result


def is_ray_connected() -> bool:
    """Whether this process is connected to Ray. Does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
