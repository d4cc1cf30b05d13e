"""Records a run in Weights & Biases.

Where runs go is set by its own variables, such as WANDB_PROJECT and WANDB_MODE.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.tracking.record import Entry, RunEnd, RunStart, figures_of_entry

PROJECT = "tirazh"


class WandbRun:
    """A run of a project."""

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, start: RunStart) -> None:
        import wandb

        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=start.name,
            job_type=start.kind,
            config={**start.settings, "output": start.output},
            settings=quiet,
            reinit="create_new",
        )
        for group in ("train", "eval"):  # a training's steps are not the steps of the tool, which counts its calls
            self._run.define_metric(f"{group}/*", step_metric="step")

    def progress(self, seconds: float, figures: Mapping[str, float]) -> None:
        self._run.log({f"progress/{name}": value for name, value in figures.items()} | {"seconds": seconds})

    def training(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._run.log({**figures_of_entry(entry), "step": entry["step"]})

    def end(self, end: RunEnd) -> None:
        self._run.summary.update({**end.figures, "outcome": end.outcome, "sentence": end.sentence})
        self._run.finish(exit_code=1 if end.exit_code is None else end.exit_code)
