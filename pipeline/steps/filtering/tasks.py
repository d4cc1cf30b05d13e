"""Runs a function for every part: as Ray tasks where Ray is connected, otherwise in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray

from tirazh.actors.cores import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tasks that are submitted and not finished; each holds its arguments and its result.
_MAX_PENDING = 256
# Each thread holds a whole part.
_THREADS = 4


def run_tasks(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result of `function` for every item, as they come. Raises the error of the first that fails.

    `function` and the items are sent to other processes, so both must pickle.
    """
    if not ray.is_initialized():
        yield from _run_in_threads(function, items)
        return
    task = ray.remote(function).options(num_cpus=1, max_retries=3)
    waiting, pending = iter(items), []
    for item in items[: min(_MAX_PENDING, len(items))]:
        pending.append(task.remote(item))
        next(waiting)
    try:
        while pending:
            (done,), pending = ray.wait(pending)
            yield ray.get(done)
            more = next(waiting, None)
            if more is not None:
                pending.append(task.remote(more))
    finally:
        for each in pending:
            ray.cancel(each)


def _run_in_threads(function: Callable[[Any], Result], items: Sequence[Any]) -> Iterator[Result]:
    with ThreadPoolExecutor(min(_THREADS, usable_cores())) as threads:
        yield from threads.map(function, items)
