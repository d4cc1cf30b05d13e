"""Which evaluation of a training is the best, and when the training ends because none was better.

Both follow from the entries of the log alone, so that a training that was killed and resumed decides the same.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Entry = Mapping[str, Any]
Metric = Literal["perplexity", "accuracy", "macro_f1"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """`keep` says which checkpoint becomes the model. The best one has the lowest perplexity, or the highest accuracy
    or macro-F1; of equal ones it is the first. `patience` is the number of evaluations without a better one after
    which the training ends (0: never). `first_step` is where the training began: its evaluation is not a candidate."""

    keep: Literal["last", "best"] = "last"
    by: Metric = "perplexity"
    patience: int = 0
    first_step: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether evaluations decide anything."""
        return self.keep == "best" or self.patience > 0

    def best(self, log: Sequence[Entry]) -> Entry | None:
        """Return the best evaluation, None before the first one with a finite figure."""
        found: Entry | None = None
        for entry in self._candidates(log):
            if entry.get(self.by) is not None and (found is None or self._is_better(entry, found)):
                found = entry
        return found

    def end_step(self, log: Sequence[Entry]) -> int | None:
        """Return the step after which the training ends early; None when it continues."""
        if not self.patience:
            return None
        candidates = self._candidates(log)
        for number in range(self.patience, len(candidates)):
            seen = candidates[: number + 1]
            best = self.best(seen)
            worse = len(seen) if best is None else len(seen) - 1 - seen.index(best)
            if worse >= self.patience:
                return int(seen[-1]["step"])
        return None

    def _candidates(self, log: Sequence[Entry]) -> list[Entry]:
        return [entry for entry in evaluations(log) if entry["step"] > self.first_step]

    def _is_better(self, entry: Entry, than: Entry) -> bool:
        if self.by == "perplexity":
            return float(entry[self.by]) < float(than[self.by])
        return float(entry[self.by]) > float(than[self.by])


NO_SELECTION = Selection()


def evaluations(log: Sequence[Entry]) -> list[Entry]:
    """Return the entries of evaluations."""
    return [entry for entry in log if "perplexity" in entry or "accuracy" in entry]


def figures(entry: Entry) -> dict[str, Any]:
    """Return the figures of an evaluation's entry: without its step and its seconds."""
    return {name: value for name, value in entry.items() if name not in ("step", "seconds")}
