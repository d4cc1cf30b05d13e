"""Finds the sentence in what Ray raises when a step of the graph fails. Used by `build.py`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError

from tirazh.errors import JobError, TirazhError
from tirazh.pipeline.execution.infer import MAX_DEATHS_OF_A_PART
from tirazh.pipeline.execution.metrics import replica_errors
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.errors import show_uri

logger = logging.getLogger(__name__)
_SHOWN = 3
_ADVICE = re.compile(r"\s*\nFailed to [^\n]+ after \d+/\d+ attempts .*", re.DOTALL)


@contextmanager
def explained(metrics: Any) -> Iterator[None]:
    """Raise what Ray raises inside the block as the TirazhError at its bottom, or as a JobError with its last line."""
    try:
        yield
    except (RayError, SystemException, ExecutionTimeoutError) as error:
        logger.debug("Ray's own account of the failure", exc_info=error)
        raise _sentence(error, metrics) from error


def left_out_sentence(plan: Plan, parts: Sequence[int], reasons: Mapping[int, str]) -> str:
    """What to say of parts that ended every replica they were given to; `reasons` tells how the last one ended."""
    told = [
        f"{part.name} (rows {part.start}–{part.stop - 1} of {show_uri(part.file.uri)}; the last time: "
        f"{reasons.get(part.index, 'nobody can say why')})"
        for part in (plan.parts[index] for index in sorted(parts))
    ]
    for text in told:
        logger.error("left out after %d replicas: %s", MAX_DEATHS_OF_A_PART, text)
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return (
        f"{', '.join(told[:_SHOWN])}{more} ended {MAX_DEATHS_OF_A_PART} replicas and "
        f"{'was' if len(parts) == 1 else 'were'} left out; everything else is written, and the same command tries again"
    )


def _sentence(error: BaseException, metrics: Any) -> TirazhError:
    found = _bottom(error)
    if found is not None:
        found.args = tuple(_without_advice(each) if isinstance(each, str) else each for each in found.args)
        return found
    told = replica_errors(metrics) if ray.is_initialized() else []
    if told:
        return told[-1]
    lines = [line.strip() for line in _without_advice(str(error)).splitlines() if line.strip()]
    return JobError(f"a step of the job failed: {lines[-1] if lines else type(error).__name__}")


def _without_advice(text: str) -> str:
    """The message without the lines about Ray Data's own settings that it adds to every error of a step."""
    return _ADVICE.sub("", text)


def _bottom(error: BaseException | None) -> TirazhError | None:
    """The TirazhError that everything above was made of, if there is one."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, TirazhError) and not isinstance(current, RayError):
            return current
        waiting += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return None
