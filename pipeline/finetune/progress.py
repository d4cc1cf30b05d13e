"""Follows the progress of a training run by the log that its first worker writes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tirazh.model.training.log import parse_entry

_POLL_INTERVAL_S = 0.5
_RECENT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingProgress:
    """Progress after a step.

    `loss` and `tokens_per_s` are means over the last 20 steps. `figures` are the metrics of the
    last evaluation, empty before the first one.
    """

    step: int
    total_steps: int
    loss: float
    tokens_per_s: float
    elapsed_s: float
    eta_s: float | None
    figures: dict[str, float]


OnTraining = Callable[[TrainingProgress], None]


class LogFollower:
    """Follows the log in a thread of its own. A context manager.

    `tell` receives a sentence when the workers resume from a checkpoint, which means that one of
    them died.
    """

    def __init__(
        self, path: Path, total_steps: int, on_progress: OnTraining | None, tell: Callable[[str], None] | None
    ) -> None:
        self._path = path
        self._total_steps = total_steps
        self._on_progress = on_progress
        self._tell = tell
        self._started = time.monotonic()
        self._offset = 0
        self._inode: int | None = None
        self._step = 0
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._figures: dict[str, float] = {}
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tirazh-training-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_stopping.set()
        self._thread.join()
        self.poll()

    def poll(self) -> None:
        """Read the new lines of the log and report the progress."""
        seen = self._inode
        lines = self._new_lines()
        if seen is not None and seen != self._inode:  # see TrainingLog: a restart replaces the file
            self._recent.clear()
            self._step = 0
        for line in lines:
            self._take(parse_entry(line))
        if seen is not None and seen != self._inode and self._tell is not None:
            self._tell(f"A worker died; all workers resume from step {self._step:,}")
        if lines and self._step and self._on_progress is not None:
            self._on_progress(self._progress())

    def _follow(self) -> None:
        while not self._is_stopping.wait(_POLL_INTERVAL_S):
            self.poll()

    def _new_lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                inode = self._path.stat().st_ino
                if inode != self._inode:  # a new group rewrites the file up to its checkpoint
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data.rpartition(b"\n")[0]
        self._offset += len(complete) + 1 if complete else 0
        return complete.decode("utf-8", errors="replace").splitlines() if complete else []

    def _take(self, entry: dict[str, Any] | None) -> None:
        if entry is None or "stopped" in entry:
            return
        if "loss" in entry and entry["loss"] is None:
            return
        if "loss" in entry:
            self._recent.append(entry)
            self._step = entry["step"]
        else:
            self._figures = {name: value for name, value in entry.items() if name != "step"}

    def _progress(self) -> TrainingProgress:
        seconds = sum(entry["seconds"] for entry in self._recent)
        mean_s = seconds / len(self._recent)
        return TrainingProgress(
            step=self._step,
            total_steps=self._total_steps,
            loss=sum(entry["loss"] for entry in self._recent) / len(self._recent),
            tokens_per_s=sum(entry["tokens"] for entry in self._recent) / max(seconds, 1e-9),
            elapsed_s=time.monotonic() - self._started,
            eta_s=mean_s * (self._total_steps - self._step),
            figures=dict(self._figures),
        )
