"""What the files of an output say about its runs: how the last one ended, and why this one failed."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any

from tirazh.errors import TirazhError
from tirazh.pipeline.output.names import REPORT, OutputFiles
from tirazh.pipeline.output.unfinished import read_failure
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

logger = logging.getLogger(__name__)

RUNS = "runs.jsonl"
_OUTCOMES = ("success", "failure", "interrupted", "unknown")


def previous_outcome(output: str, endpoint_url: str | None = None) -> str | None:
    """How the last recorded run of an output ended; None if no run is recorded or the record cannot be read."""
    try:
        files = OutputFiles.at(output, Storage(endpoint_url))
        if RUNS not in files.storage.names(files.own()):
            return None
        lines = files.storage.read(files.own(RUNS)).decode("utf-8", "replace").splitlines()
    except (TirazhError, OSError) as error:
        logger.info("the earlier runs of the output cannot be read: %s", error)
        return None
    for line in reversed(lines):
        try:
            outcome = json.loads(line)["outcome"]
        except (ValueError, TypeError, KeyError):
            continue
        return outcome if outcome in _OUTCOMES else None
    return None


def facts_of_failure(output: str, endpoint_url: str | None, *, since: datetime) -> dict[str, Any]:
    """The rows, errors and report page that a run which failed after `since` has left; empty if it has left none."""
    try:
        files = OutputFiles.at(output, Storage(endpoint_url))
        found = read_failure(files)
        if found is None or datetime.fromisoformat(found["time"]) < since.replace(microsecond=0):
            return {}
    except (TirazhError, OSError, ValueError, KeyError, TypeError) as error:
        logger.info("the reason of the failure cannot be read: %s", error)
        return {}
    names = ("rows", "rows_total", "errors")
    return {**{name: found[name] for name in names}, "report": report_of(files.directory)}


def report_of(output: str) -> str:
    """The address of the page about the last run of an output, without secrets."""
    return f"{show_uri(output).rstrip('/')}/_tirazh/{REPORT}"
