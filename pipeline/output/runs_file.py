"""`_tirazh/runs.jsonl`: one JSON object a line for every run of an output, the oldest first.

It is written by the holder of the lease. It is small, so every change writes the whole file, on disks and in object
stores. Lines that cannot be read are left out: the file only describes, and nothing about rows depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.errors import InputError
from tirazh.pipeline.output.names import RUNS, OutputFiles

# Runs that are kept. A night has one or two, so these are years.
MAX_RUNS = 1_000
_TEXTS = ("run_id", "begin", "command", "outcome")

Run = dict[str, Any]


def read_runs(output: OutputFiles) -> list[Run]:
    """The runs of an output, the oldest first; none if it has no history. Raises StorageError."""
    try:
        data = output.storage.read(output.own(RUNS))
    except InputError:
        return []
    found = (_parse(line) for line in data.decode("utf-8", errors="replace").splitlines())
    return [run for run in found if run is not None]


def runs_text(runs: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of the file, with the last `MAX_RUNS` runs."""
    lines = (json.dumps(run, ensure_ascii=False) for run in runs[-MAX_RUNS:])
    return "".join(f"{line}\n" for line in lines).encode("utf-8", errors="backslashreplace")


def last_success(runs: Sequence[Run]) -> Run | None:
    """The last run that ended well."""
    return next((run for run in reversed(runs) if run["outcome"] == "success" and run["end"]), None)


def _parse(line: str) -> Run | None:
    try:
        run = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_run = isinstance(run, dict) and all(isinstance(run.get(name), str) for name in _TEXTS)
    return run if is_run and isinstance(run.get("end", 0), str | None) else None
