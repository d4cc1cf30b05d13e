"""Collects what the page of an output shows besides its manifest: rows of its parts, times, and its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tirazh.errors import InputError, StorageError
from tirazh.pipeline.output.names import RUNS, OutputFiles
from tirazh.pipeline.report.least_certain import scan_output
from tirazh.pipeline.report.page import Additions
from tirazh.pipeline.report.rows import row_columns

_MOST_RUNS_BYTES = 4_000_000


def additions_of(manifest: Mapping[str, Any], output: OutputFiles) -> Additions:
    """Read what can be read; a page is written without the rest.

    `output` is where the parts are.
    """
    columns = row_columns(manifest)
    scan = scan_output(
        output.storage,
        [(output.part(part["name"]), int(part["rows"])) for part in manifest["parts"]],
        confidences={each.question: each.confidence for each in columns.answers},
        error=columns.error if manifest["errors"] else None,
        shown=columns.detailed,
    )
    begin, end = (None, None) if manifest.get("begin") else _lease_times(output)
    return Additions(scan=scan, begin=begin, end=end, runs=read_runs(output))


def read_runs(output: OutputFiles) -> list[dict[str, Any]]:
    """The runs of an output in `runs.jsonl`, the last one last; none if there is no such file. Damaged lines are left
    out."""
    try:
        if RUNS not in output.storage.names(output.own()):
            return []
        lines = output.storage.read(output.own(RUNS))[-_MOST_RUNS_BYTES:].splitlines()
    except (InputError, StorageError, OSError):
        return []
    runs = []
    for line in lines:
        try:
            run = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(run, dict):
            runs.append(run)
    return runs


def _lease_times(output: OutputFiles) -> tuple[str | None, str | None]:
    """When the last run took its lease and renewed it last, as ISO texts: about its begin and its end."""
    try:
        names = output.storage.names(output.leases)
        lease = json.loads(output.storage.read(f"{output.leases}/{max(names)}")) if names else {}
        since, renewed = float(lease["since"]), float(lease["renewed"])
        return tuple(datetime.fromtimestamp(each, UTC).isoformat() for each in (since, renewed))  # type: ignore[return-value]
    except (InputError, StorageError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None, None
