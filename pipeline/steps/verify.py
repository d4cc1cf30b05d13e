"""Verifies the output of any job over rows; of a job of several steps it verifies every step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import OWN, PLAN, ROUND, STEPS, OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.verify import Verification, verify
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.steps.accepted.cells import cell_files, cell_slices, read_cells
from tirazh.pipeline.steps.accepted.rounds import Round
from tirazh.pipeline.steps.accepted.run import make_round
from tirazh.pipeline.steps.filtering.plan import LAYOUT
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
    found: list[Verification] = []
    before: list[OutputFiles] = []  # what the next step reads: a step, or rounds of attempts
    for name in sorted(files.storage.directories(steps)):
        names = sorted(each for each in files.storage.directories(join(steps, name)) if each.startswith(ROUND))
        paths = [f"{name}/{each}" for each in names] or [name]
        for path in paths:
            # The input of all but the first step is the step before.
            verified = _verify_step(join(steps, path), before, endpoint_url, skip_input=skip_input and not before)
            found.append(_named(verified, path))
        before = [OutputFiles(files.storage, join(steps, path)) for path in paths]
    final = _verify_step(files.directory, before, endpoint_url, skip_input=skip_input)
    return replace(
        final,
        output=output,
        problems=tuple(problem for each in (*found, final) for problem in each.problems),
        notes=tuple(note for each in (*found, final) for note in each.notes),
    )


def _named(verified: Verification, step: str) -> Verification:
    problems = tuple(f"step {step}: {problem}" for problem in verified.problems)
    return replace(verified, problems=problems, notes=tuple(f"step {step}: {note}" for note in verified.notes))


def _verify_step(
    directory: str, before: Sequence[OutputFiles], endpoint_url: str | None, *, skip_input: bool
) -> Verification:
    files = OutputFiles(Storage(endpoint_url), directory)
    kind = _kind(files)
    if kind is not None and kind not in _FILTERS:
        return verify(directory, endpoint_url, skip_input=skip_input)
    try:
        plan = read_plan(files) if kind is not None else None
        if plan is not None and LAYOUT in plan.identity:
            return _verify_accepted(files, plan, before)
        manifest = read_manifest(before[-1]) if before else None
    except OutputError as error:
        return _unfinished(directory, str(error))
    if plan is None or manifest is None:
        return _unfinished(directory, "the job stopped before this step was finished; run it again")
    return verify_filtered(files, plan, part_hashes(manifest))


def _verify_accepted(files: OutputFiles, plan: Plan, before: Sequence[OutputFiles]) -> Verification:
    """Check that kept and dropped rows are together the attempts of all rounds."""
    rounds: list[Round] = []
    for output in before:
        stored, manifest = read_plan(output), read_manifest(output)
        if stored is None or stored.crossing is None or manifest is None:
            return _unfinished(files.directory, f"the round {output.directory} is not finished; run the job again")
        first = rounds[-1].first_part + len(rounds[-1].judged.parts) if rounds else 0
        rounds.append(make_round(stored.crossing, manifest, output, first_part=first, identity={}))
    slices = cell_slices(rounds, plan.identity[LAYOUT]["cells_per_part"])
    source = {each.file.key: each.file.version for each in cell_files(slices)}
    return verify_filtered(files, plan, source, lambda part: read_cells(slices[part.index], files.storage))


def _unfinished(directory: str, problem: str) -> Verification:
    return Verification(output=directory, parts=0, parts_expected=0, rows=0, rows_expected=0, problems=(problem,))


def _kind(files: OutputFiles) -> str | None:
    """The kind of the job whose plan is stored, None without one. A damaged plan is reported by the verification."""
    try:
        values: Any = json.loads(files.storage.read(files.own(PLAN)))
        return str(values["identity"]["kind"])
    except InputError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return "damaged"
