"""The training log `losses.jsonl`: one JSON object per line, for every step and every evaluation.

An entry `stopped` or `ended` says why no step follows: a failure, or evaluations that are no longer better. The first
worker writes the file while the driver reads it. A training run that resumes from a checkpoint first removes the lines
after it, so that the file is the same as without an interruption. Standard library only.
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
    """Appends entries; each has a `step`, the number of completed steps.

    The entries of earlier groups up to `start_step` are kept; None keeps nothing. `entries` are those that are kept and
    those that were added.
    """

    def __init__(self, path: Path, *, start_step: int | None) -> None:
        earlier = [] if start_step is None else read_log(path)
        kept = [entry for entry in earlier if entry["step"] <= (start_step or 0) and not _is_end(entry)]
        _replace(_start_file(path), str(start_step or 0))
        _replace(path, "".join(map(_line, kept)))  # a new inode, by which the driver notices that the workers restarted
        self._file = path.open("a", encoding="utf-8")
        self.entries: list[Entry] = kept

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one entry and flush it."""
        line = _line(entry)
        self._file.write(line)
        self._file.flush()
        self.entries.append(json.loads(line))

    def close(self) -> None:
        self._file.close()


def read_start(path: Path) -> int:
    """Return the step from which the workers that write the log went on; 0 where they began."""
    try:
        return int(_start_file(path).read_text())
    except (FileNotFoundError, ValueError):
        return 0


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


def _start_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}.start")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def _is_end(entry: Entry) -> bool:
    return "stopped" in entry or "ended" in entry


def _line(entry: Mapping[str, Any]) -> str:
    # JSON has neither NaN nor infinity: a non-finite loss or norm becomes null.
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
    return json.dumps(values, ensure_ascii=False) + "\n"
