"""Collects what the page of an output shows besides its manifest: rows of its parts, times, and its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tirazh.errors import InputError, StorageError
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.report.least_certain import scan_output
from tirazh.pipeline.report.page import Additions
from tirazh.pipeline.report.rows import row_columns


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
    return Additions(scan=scan, begin=begin, end=end, runs=_runs(output))


def _runs(output: OutputFiles) -> list[dict[str, Any]]:
    """The runs of an output, the oldest first; none if they cannot be read."""
    try:
        return read_runs(output)
    except (StorageError, OSError):
        return []


def _lease_times(output: OutputFiles) -> tuple[str | None, str | None]:
    """When the last run took its lease and renewed it last, as ISO texts: about its begin and its end."""
    try:
        names = output.storage.names(output.leases)
        lease = json.loads(output.storage.read(f"{output.leases}/{max(names)}")) if names else {}
        since, renewed = float(lease["since"]), float(lease["renewed"])
        return tuple(datetime.fromtimestamp(each, UTC).isoformat() for each in (since, renewed))  # type: ignore[return-value]
    except (InputError, StorageError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None, None
