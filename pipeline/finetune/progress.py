"""Follows the progress of a training run by the log that its first worker writes, and by Ray Train's failures."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tirazh.actors.training_failures import read_failures
from tirazh.model.training.log import Entry, parse_entry, read_start
from tirazh.model.training.selection import figures
from tirazh.pipeline.storage.secrets import redact

_POLL_INTERVAL_S = 0.5
RECENT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingProgress:
    """Progress after a step.

    `loss` and `tokens_per_s` are means over the last `loss_steps` steps, of which there are at most 20. `figures` are
    those of the last evaluation, which was made at `figures_step`; empty and None before the first one. `eta_s` is the
    time left of the remaining steps and evaluations. `entries` are the new entries of the log, each of them once.
    """

    step: int
    total_steps: int
    loss: float
    tokens_per_s: float
    elapsed_s: float
    eta_s: float | None
    figures: Mapping[str, float]
    loss_steps: int = 1
    figures_step: int | None = None
    entries: tuple[Entry, ...] = field(default=(), repr=False)


OnTraining = Callable[[TrainingProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """What is followed: the log, the file of failures, and the steps.

    Evaluations are made every `eval_steps` steps (0: none but the last) and at the end.
    """

    log: Path
    failures: Path
    total_steps: int
    eval_steps: int = 0

    def evaluations_after(self, step: int) -> int:
        """Return the number of evaluations after that of `step`."""
        if step >= self.total_steps:
            return 0
        every = self.eval_steps or self.total_steps
        between = self.total_steps // every - step // every
        return between + (1 if self.total_steps % every else 0)


class LogFollower:
    """Follows the log in a thread of its own. A context manager.

    `tell` receives a sentence when the workers go on from a checkpoint, and when Ray Train says that a group failed.
    `on_evaluation` is called after new evaluations, and at the end.
    """

    def __init__(
        self,
        followed: Followed,
        on_progress: OnTraining | None = None,
        tell: Callable[[str], None] | None = None,
        on_evaluation: Callable[[], None] | None = None,
    ) -> None:
        self._followed = followed
        self._on_progress = on_progress
        self._tell = tell
        self._on_evaluation = on_evaluation
        self._started = time.monotonic()
        self._inode, self._offset = _end_of(followed.log)  # the log of an earlier run: its workers are gone
        self._is_new_group = False
        self._failures = len(read_failures(followed.failures))
        self._step = 0
        self._evaluated: Entry | None = None
        self._recent: deque[Entry] = deque(maxlen=RECENT)
        self._pending: list[Entry] = []  # an evaluation before the first step waits for it
        self._passed = {"step": -1, "evaluation": -1}
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
        if self._on_evaluation is not None:
            self._on_evaluation()

    def poll(self) -> None:
        """Read the new lines of the log and report the progress."""
        lines = self._new_lines()
        new: list[Entry] = []
        for line in lines:
            self._take(parse_entry(line), new)
        if self._is_new_group:
            self._is_new_group = False
            self._tell_of_group()
        self._pending += new
        if lines and self._recent and self._on_progress is not None:
            self._on_progress(self._progress(tuple(self._pending)))
            self._pending.clear()
        if self._on_evaluation is not None and any("loss" not in entry for entry in new):
            self._on_evaluation()

    def _follow(self) -> None:
        while not self._is_stopping.wait(_POLL_INTERVAL_S):
            self.poll()

    def _new_lines(self) -> list[str]:
        try:
            with self._followed.log.open("rb") as file:
                inode = self._followed.log.stat().st_ino
                if inode != self._inode:  # see TrainingLog: a new group replaces the file by one up to its checkpoint
                    self._inode, self._offset = inode, 0
                    self._is_new_group = True
                    self._step, self._evaluated = 0, None
                    self._recent.clear()
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data.rpartition(b"\n")[0]
        self._offset += len(complete) + 1 if complete else 0
        return complete.decode("utf-8", errors="replace").splitlines() if complete else []

    def _tell_of_group(self) -> None:
        """Say why a group was started again, as Ray Train told it, and where it continues."""
        failures = read_failures(self._followed.failures)
        new, self._failures = failures[self._failures :], len(failures)
        if self._tell is None:
            return
        start = read_start(self._followed.log)
        on = f"from step {start:,} of {self._followed.total_steps:,}"
        for failure in new:
            told = redact(failure.describe())
            self._tell(f"{told[0].upper()}{told[1:]}; all workers are started again and go on {on}")
        if not new and start:
            self._tell(f"Going on {on}")

    def _take(self, entry: Entry | None, new: list[Entry]) -> None:
        if entry is None or "stopped" in entry or "ended" in entry:
            return
        if "loss" in entry and entry["loss"] is None:
            return
        if "loss" in entry:
            self._recent.append(entry)
            self._step = entry["step"]
        else:
            self._evaluated = entry
        kind = "step" if "loss" in entry else "evaluation"
        if entry["step"] > self._passed[kind]:  # a step that is repeated after a failure has the same figures
            self._passed[kind] = entry["step"]
            new.append(entry)

    def _progress(self, new: tuple[Entry, ...]) -> TrainingProgress:
        seconds = sum(entry["seconds"] for entry in self._recent)
        steps = len(self._recent)
        evaluated = self._evaluated or {}
        left = self._followed.evaluations_after(evaluated.get("step", 0)) * evaluated.get("seconds", 0.0)
        return TrainingProgress(
            step=self._step,
            total_steps=self._followed.total_steps,
            loss=sum(entry["loss"] for entry in self._recent) / steps,
            tokens_per_s=sum(entry["tokens"] for entry in self._recent) / max(seconds, 1e-9),
            elapsed_s=time.monotonic() - self._started,
            eta_s=seconds / steps * (self._followed.total_steps - self._step) + left,
            figures={name: value for name, value in figures(evaluated).items() if value is not None},
            loss_steps=steps,
            figures_step=evaluated.get("step"),
            entries=new,
        )


def _end_of(path: Path) -> tuple[int | None, int]:
    """Return inode and size of a file, None and 0 when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None, 0
    return found.st_ino, found.st_size
