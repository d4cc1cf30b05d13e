"""Verifies the output of any job over rows; of a job of several steps it verifies every step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tirazh.errors import InputError
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import OWN, PLAN, STEPS, OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.verify import Verification, verify
from tirazh.pipeline.steps.filtering.verify import part_hashes, verify_filtered
from tirazh.pipeline.storage.filesystem import Storage, join

_FILTERS = ("filter", "steps")


def verify_output(output: str, endpoint_url: str | None = None, *, skip_input: bool = False) -> Verification:
    """Verify an output as `output.verify.verify` does. In a job of several steps every row of the input must be in the
    output of each step exactly once, until it is dropped; then it is among the dropped rows, with its reasons.
    """
    files = OutputFiles.at(output, Storage(endpoint_url))
    if _kind(files) not in _FILTERS and STEPS not in files.storage.directories(files.own()):
        return verify(output, endpoint_url, skip_input=skip_input)
    steps = join(files.directory, OWN, STEPS)
    names = sorted(files.storage.directories(steps))
    found = []
    for index, name in enumerate(names):
        before = OutputFiles(files.storage, join(steps, names[index - 1])) if index else None
        # The input of all but the first step is the step before.
        verified = _verify_step(join(steps, name), before, endpoint_url, skip_input=skip_input and not index)
        problems = [f"step {name}: {problem}" for problem in verified.problems]
        notes = [f"step {name}: {note}" for note in verified.notes]
        found.append(replace(verified, problems=tuple(problems), notes=tuple(notes)))
    last = OutputFiles(files.storage, join(steps, names[-1])) if names else None
    final = _verify_step(files.directory, last, endpoint_url, skip_input=skip_input)
    return replace(
        final,
        output=output,
        problems=tuple(problem for each in (*found, final) for problem in each.problems),
        notes=tuple(note for each in (*found, final) for note in each.notes),
    )


def _verify_step(
    directory: str, before: OutputFiles | None, endpoint_url: str | None, *, skip_input: bool
) -> Verification:
    files = OutputFiles(Storage(endpoint_url), directory)
    kind = _kind(files)
    if kind is not None and kind not in _FILTERS:
        return verify(directory, endpoint_url, skip_input=skip_input)
    plan = read_plan(files) if kind is not None else None
    manifest = read_manifest(before) if before is not None else None
    if plan is None or manifest is None:
        return Verification(
            output=directory,
            parts=0,
            parts_expected=0,
            rows=0,
            rows_expected=0,
            problems=("the job stopped before this step was finished; run it again",),
        )
    return verify_filtered(files, plan, part_hashes(manifest))


def _kind(files: OutputFiles) -> str | None:
    """The kind of the job whose plan is stored, None without one. A damaged plan is reported by the verification."""
    try:
        values: Any = json.loads(files.storage.read(files.own(PLAN)))
        return str(values["identity"]["kind"])
    except InputError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return "damaged"
