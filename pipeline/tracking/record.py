"""What is recorded of a run: its settings, its figures while it runs and at its end, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# Figures of a progress event.
_EVENT = ("rows_done", "rows_total", "error_rows", "prompt_tokens", "completion_tokens", "replicas", "tokens_per_s")
_TRAINING_EVENT = ("step", "loss", "tokens_per_s")
_LONGEST_SETTING = 500
Entry = Mapping[str, Any]  # of the log of a training


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStart:
    """A run that begins. `settings` hold no secrets: a spec refuses them. `inputs` and `output` are addresses."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, str]:
        """The settings as texts of limited length."""
        return {name: str(value)[:_LONGEST_SETTING] for name, value in self.settings.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnd:
    """How a run ended: `outcome` is success, failure or interrupted, `sentence` says why where it is no success.

    `exit_code` is None for an interrupted run: it depends on the signal.
    """

    outcome: str
    exit_code: int | None
    sentence: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Tracker(Protocol):
    """One tool. Its methods are called one after the other in a thread of their own; they may raise anything."""

    def begin(self, start: RunStart) -> None: ...

    def progress(self, seconds: float, figures: Mapping[str, float]) -> None: ...

    def training(self, entries: Sequence[Entry]) -> None:
        """Record the steps and the evaluations of a training. Each entry is passed once, in their order."""

    def end(self, end: RunEnd) -> None: ...


def figures_of_entry(entry: Entry) -> dict[str, float]:
    """The finite figures of a step, as in `train/loss`, or of an evaluation, as in `eval/accuracy`."""
    group = "train" if "loss" in entry else "eval"
    return {
        f"{group}/{name}": float(value)
        for name, value in entry.items()
        if name != "step" and isinstance(value, int | float)
    }


def figures_of_event(event: Any) -> dict[str, float]:
    """The figures of a progress event of a job over rows, or of a training run."""
    names = _EVENT if hasattr(event, "rows_done") else _TRAINING_EVENT
    found = {name: getattr(event, name) for name in names}
    return {name: float(value) for name, value in {**found, **getattr(event, "figures", {})}.items()}


def figures_of_manifest(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The numbers at the top of a manifest, and those of its evaluation."""
    evaluation = manifest.get("evaluation")
    values = {**manifest, **(evaluation if isinstance(evaluation, Mapping) else {})}
    values.pop("step", None)  # that of a training's evaluation
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
