"""Where the steps of a job keep their outputs: below the directory of the last step's output, hidden from readers."""

from __future__ import annotations

from tirazh.pipeline.output.names import OWN, STEPS
from tirazh.pipeline.storage.filesystem import join


def step_output(output: str, number: int, name: str) -> str:
    """`OUTPUT/_tirazh/steps/02-body`, the output directory of step `number` (from 1)."""
    return join(output, OWN, STEPS, f"{number:02d}-{name}")
