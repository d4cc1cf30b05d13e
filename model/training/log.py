"""The training log `losses.jsonl`: one JSON object per line, for every step and every evaluation.

The first worker writes it while the driver reads it. A training run that resumes from a checkpoint
first removes the lines after it, so that the file is the same as without an interruption. Standard
library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

Entry = dict[str, Any]


class TrainingLog:
    """Appends entries; each has a `step`, the number of completed steps."""

    def __init__(self, path: Path, *, start_step: int) -> None:
        kept = [entry for entry in read_log(path) if entry["step"] <= start_step and "stopped" not in entry]
        partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        partial.write_text("".join(map(_line, kept)), encoding="utf-8")
        partial.rename(path)  # a new inode, by which the driver notices that the workers restarted
        self._file = path.open("a", encoding="utf-8")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one entry and flush it."""
        self._file.write(_line(entry))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[Entry]:
    """Return every entry; skips a last line that is not complete yet."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [entry for line in lines if (entry := parse_entry(line)) is not None]


def parse_entry(line: str) -> Entry | None:
    """Parse one line of the log; None when it is not complete."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _line(entry: Mapping[str, Any]) -> str:
    # JSON has neither NaN nor infinity: a non-finite loss or norm becomes null.
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
    return json.dumps(values, ensure_ascii=False) + "\n"
