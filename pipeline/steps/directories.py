"""Where the steps of a job keep their outputs: below the directory of the last step's output, hidden from readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tirazh.pipeline.output.names import OWN, ROUND, STEPS
from tirazh.pipeline.spec import JobSpec, Step
from tirazh.pipeline.storage.filesystem import join

_ROUND = " round "  # no name of a step has a space


def step_output(output: str, number: int, name: str) -> str:
    """`OUTPUT/_tirazh/steps/02-body`, the output directory of step `number` (from 1)."""
    return join(output, OWN, STEPS, f"{number:02d}-{name}")


def round_output(step_output: str, number: int) -> str:
    """`OUTPUT/_tirazh/steps/01-text/round-002`, the output directory of a round of attempts (from 1)."""
    return join(step_output, f"{ROUND}{number:03d}")


def name_of_round(step: str, number: int) -> str:
    """`text round 2`, the name of a round of attempts in a manifest."""
    return f"{step}{_ROUND}{number}"


def step_of_round(name: str) -> str:
    """The name of the step of a round, or of a step that has none."""
    return name.partition(_ROUND)[0]


def place_steps(steps: Sequence[Step], output: str) -> tuple[Step, ...]:
    """Give the steps with a model their output directories, and all but the first one the input: the step before."""
    placed = []
    for number, step in enumerate(steps, start=1):
        spec = step.spec
        if isinstance(spec, JobSpec):
            spec = replace(spec, output=step_output(output, number, step.name))
            if number > 1:
                spec = replace(spec, input=(step_output(output, number - 1, steps[number - 2].name),))
        placed.append(replace(step, spec=spec))
    return tuple(placed)
