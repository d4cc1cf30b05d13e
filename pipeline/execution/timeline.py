"""Samples of the progress of a run, for the report: rows, tokens and replicas over time."""

from __future__ import annotations

from typing import Any

from tirazh.pipeline.execution.metrics import ProgressEvent

MOST_SAMPLES = 60
_FIRST_STEP_S = 1.0


class Timeline:
    """Keeps at most `MOST_SAMPLES` samples of a run, however long it takes.

    Samples are one second apart at first. Whenever there are too many, every second one is removed and the distance
    doubles, so that they stay evenly spaced. The last event is always the last sample.
    """

    def __init__(self) -> None:
        self._samples: list[dict[str, Any]] = []
        self._last: dict[str, Any] | None = None
        self._step_s = _FIRST_STEP_S

    def add(self, event: ProgressEvent) -> None:
        """Take an event; those that follow too soon are not kept."""
        sample = {
            "s": round(event.elapsed_s, 1),
            "rows": event.rows_done,
            "tokens": event.prompt_tokens + event.completion_tokens,
            "replicas": event.replicas,
        }
        self._last = sample
        # One place is left for the last event.
        if len(self._samples) == MOST_SAMPLES - 1:
            del self._samples[1::2]
            self._step_s *= 2
        if not self._samples or sample["s"] >= self._samples[-1]["s"] + self._step_s:
            self._samples.append(sample)

    def facts(self) -> list[dict[str, Any]]:
        """The samples for the manifest: `s` since the start of the run, all rows that are done, the tokens of this
        run, and the replicas that work at this moment."""
        if self._last is None:
            return []
        return [*(sample for sample in self._samples if sample["s"] < self._last["s"]), self._last]
