"""`losses.jsonl`: one JSON object a line, for every step and every evaluation. Standard library only.

Written by the first worker, read by the driver while it grows. A training that goes on from a checkpoint takes back the
lines behind it first, so that the file is that of a training that was never interrupted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class TrainingLog:
    """Appends entries; each has a `step`, the number of steps done."""

    def __init__(self, path: Path, *, start_step: int) -> None:
        kept = [entry for entry in read_log(path) if entry["step"] <= start_step and "stopped" not in entry]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(map(_line, kept)), encoding="utf-8")
        partial.rename(path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one entry; it can be read at once."""
        self._file.write(_line(entry))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[Entry]:
    """Every entry; a last line that is not yet whole is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [entry for line in lines if (entry := parse_entry(line)) is not None]


def parse_entry(line: str) -> Entry | None:
    """One line of the log; None where it is not whole."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _line(entry: Mapping[str, Any]) -> str:
    # JSON has no NaN and no infinity: a loss or a norm that overflowed is null.
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
    return json.dumps(values, ensure_ascii=False) + "\n"
