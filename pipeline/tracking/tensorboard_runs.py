"""Records a run in event files of TensorBoard, with TensorBoard's own writer.

They lie in TENSORBOARD_LOGGING_DIR, or in OUTPUT/_tirazh/tensorboard where the output is on a disk; each run has a
directory of its own there. TensorBoard keeps numbers in float32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tirazh.pipeline.output.names import OWN
from tirazh.pipeline.storage.filesystem import is_remote
from tirazh.pipeline.tracking.record import Entry, RunEnd, RunStart, figures_of_entry

VARIABLE = "TENSORBOARD_LOGGING_DIR"


class TensorboardRun:
    """The event file of one run. It is made with the first figures: a request that is refused leaves none."""

    def __init__(self) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._open: Any = EventFileWriter
        self._writer: Any = None
        self._start: RunStart | None = None

    def begin(self, start: RunStart) -> None:
        if is_remote(start.output) and not os.environ.get(VARIABLE):
            raise ValueError(f"the output is in an object store; set {VARIABLE} to a directory for the event files")
        self._start = start

    def progress(self, seconds: float, figures: Mapping[str, float]) -> None:
        self._add({f"progress/{name}": value for name, value in figures.items()}, step=round(seconds))

    def training(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._add(figures_of_entry(entry), step=entry["step"])

    def end(self, end: RunEnd) -> None:
        if self._writer is None:
            return
        self._add({f"end/{name}": value for name, value in end.figures.items()}, step=0)
        if end.sentence:
            self._add_text("sentence", end.sentence)
        self._writer.close()

    def _add(self, figures: Mapping[str, float], *, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(Summary(value=[Summary.Value(tag=name, simple_value=each) for name, each in figures.items()]), step)

    def _add_text(self, name: str, text: str) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write(text_pb(name, text), 0)

    def _write(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._opened().add_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def _opened(self) -> Any:
        if self._writer is None:
            assert self._start is not None, "a run begins before it has figures"
            folder = os.environ.get(VARIABLE) or str(Path(self._start.output) / OWN / "tensorboard")
            self._writer = self._open(str(Path(folder) / f"{self._start.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"))
            settings = "".join(f"- {name}: `{value}`\n" for name, value in self._start.parameters.items())
            self._add_text("settings", settings)
        return self._writer
