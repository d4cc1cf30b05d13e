"""What a failed run leaves for people and for schedulers: the reason in `_tirazh/failure.json` and in the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tirazh.errors import TirazhError
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.names import FAILURE, REPORT
from tirazh.pipeline.output.report import unfinished_page
from tirazh.pipeline.output.unfinished import describe_unfinished
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import JobSpec

logger = logging.getLogger(__name__)


@contextmanager
def explaining_failure(output: GuardedOutput, plan: Plan, spec: JobSpec) -> Iterator[None]:
    """If the block raises a TirazhError, write why, and what is finished so far, to the output, and raise it.

    An output with `_SUCCESS` stays as it is. The files are written by the holder of the lease only; if they
    cannot be written, the error of the block is still the one that is raised.
    """
    try:
        yield
    except TirazhError as error:
        try:
            if not output.files.is_complete():
                _write(output, plan, spec, error)
        except TirazhError as second:
            logger.warning("the reason of the failure could not be written: %s", second)
        raise


def _write(output: GuardedOutput, plan: Plan, spec: JobSpec, error: TirazhError) -> None:
    facts = describe_unfinished(plan, output.files) | {
        "spec": spec.to_dict(),  # contains no secrets: a spec refuses them
        "error": type(error).__name__,
        "reason": str(error),
        "exit_code": error.exit_code,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    output.write(output.files.own(FAILURE), json.dumps(facts, ensure_ascii=False, indent=1).encode())
    output.write(output.files.own(REPORT), unfinished_page(facts))
