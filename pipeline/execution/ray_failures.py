"""Turns the exceptions that Ray raises when a step of the graph fails into one sentence for the user."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError

from tirazh.errors import JobError, TirazhError
from tirazh.pipeline.execution.infer import MAX_DEATHS_OF_A_PART
from tirazh.pipeline.execution.metrics_client import MetricsClient
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.errors import show_uri

logger = logging.getLogger(__name__)
_SHOWN = 3
_ADVICE = re.compile(r"\s*\nFailed to [^\n]+ after \d+/\d+ attempts .*", re.DOTALL)


@contextmanager
def explained(metrics: MetricsClient) -> Iterator[None]:
    """Replace an exception of Ray by the TirazhError that caused it, or else by a JobError with its last line."""
    try:
        yield
    except (RayError, SystemException, ExecutionTimeoutError) as error:
        logger.debug("the exception of Ray", exc_info=error)
        raise _sentence(error, metrics) from error


def skipped_sentence(plan: Plan, parts: Sequence[int], reasons: Mapping[int, str]) -> str:
    """Name the parts that were skipped because they killed every replica; `reasons` has the last death of each."""
    named = [
        f"{part.name} (rows {part.start}–{part.stop - 1} of {show_uri(part.file.uri)}; the last time: "
        f"{reasons.get(part.index, 'unknown reason')})"
        for part in (plan.part_of_index[index] for index in sorted(parts))
    ]
    for text in named:
        logger.error("skipped after the death of %d replicas: %s", MAX_DEATHS_OF_A_PART, text)
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return (
        f"{', '.join(named[:_SHOWN])}{more} killed {MAX_DEATHS_OF_A_PART} replicas and "
        f"{'was' if len(parts) == 1 else 'were'} skipped; all other parts are written, and rerunning the same command "
        "tries again"
    )


def _sentence(error: BaseException, metrics: MetricsClient) -> TirazhError:
    found = _cause(error)
    if found is not None:
        # Ray Data adds its advice to the message of the original exception.
        found.args = tuple(_without_advice(each) if isinstance(each, str) else each for each in found.args)
        return found
    start_errors = metrics.errors() if ray.is_initialized() else []
    if start_errors:
        return start_errors[-1]
    lines = [line.strip() for line in _without_advice(str(error)).splitlines() if line.strip()]
    return JobError(f"a step of the job failed: {lines[-1] if lines else type(error).__name__}")


def _without_advice(text: str) -> str:
    """Remove the lines about Ray Data's settings that Ray appends to every error of a step."""
    return _ADVICE.sub("", text)


def _cause(error: BaseException | None) -> TirazhError | None:
    """The first TirazhError in the exception's chain of causes, if there is one."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        # Chains of causes may be cyclic.
        seen.add(id(current))
        if isinstance(current, TirazhError) and not isinstance(current, RayError):
            return current
        waiting += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return None
