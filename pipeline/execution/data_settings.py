"""The settings of Ray Data for a run. Runs in several threads of one process may overlap.

Ray Data has one current context for the whole process, and copies it when a graph is built.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ray.data import DataContext

from tirazh.pipeline.execution.backpressure import limit_parts_in_flight
from tirazh.pipeline.execution.few_processes import few_actors
from tirazh.pipeline.execution.ray_session import is_own_session

# Consecutive replicas that may die before they serve until the job fails: one, because a node can
# be lost.
_MAX_INIT_DEATHS = 1
_logger = logging.getLogger("ray.data")
# Guards the current context of Ray Data and what follows.
_lock = threading.RLock()
_active: list[DataContext] = []
_before: tuple[DataContext, int] | None = None
_of_this_run: ContextVar[DataContext | None] = ContextVar("tirazh_data_context", default=None)


@contextmanager
def data_settings(*, max_parts_in_flight: int | None = None) -> Iterator[DataContext]:
    """Inside the block, Ray Data keeps parts whole, prints nothing and limits the parts in flight.

    The caller's settings are restored when no run is left that has changed them.
    """
    few_actors(is_own_session)
    context = _enter(max_parts_in_flight)
    token = _of_this_run.set(context)
    try:
        yield context
    finally:
        _of_this_run.reset(token)
        _leave(context)


@contextmanager
def building() -> Iterator[None]:
    """Inside the block, graphs that this thread builds take the settings of its own run."""
    with _lock:
        before = DataContext._set_current(_of_this_run.get() or DataContext.get_current())
        try:
            yield
        finally:
            DataContext._set_current(before)


def _enter(max_parts_in_flight: int | None) -> DataContext:
    global _before
    with _lock:
        if _before is None:
            _before = (DataContext.get_current(), _logger.level)
            # Failures are raised with their tracebacks; they need not be logged too.
            _logger.setLevel(logging.CRITICAL)
        context = _configured(_before[0], max_parts_in_flight)
        _active.append(context)
        DataContext._set_current(context)
        return context


def _leave(context: DataContext) -> None:
    global _before
    with _lock:
        _active[:] = [each for each in _active if each is not context]
        if _active:
            DataContext._set_current(_active[-1])
        elif _before is not None:
            DataContext._set_current(_before[0])
            _logger.setLevel(_before[1])
            _before = None


def _configured(original: DataContext, max_parts_in_flight: int | None) -> DataContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray warns about fields that are not used here
        context = original.copy()
    if max_parts_in_flight is not None:
        limit_parts_in_flight(context, max_parts_in_flight)
    context.target_max_block_size = None  # Ray Data would split a larger block
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a wrapped TirazhError would not reach the driver
    context.max_consecutive_actor_init_deaths = _MAX_INIT_DEATHS
    context.actor_pool_max_upscaling_delta = 1_000  # start all replicas at once, not one after the other
    return context
