"""What a run does with a complete output: `--retry-failed`, then `--append`; at the end small files are joined.

Each step is a staged output that continues the complete one: it has a plan of all parts, and only the new ones are
made. Its promotion moves these in; all other files stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tirazh.errors import OutputError
from tirazh.pipeline.output.changed_input import continue_plan
from tirazh.pipeline.output.generations.adding import Adding
from tirazh.pipeline.output.generations.append import plan_append
from tirazh.pipeline.output.generations.join import plan_join
from tirazh.pipeline.output.generations.retry import plan_retry
from tirazh.pipeline.output.ledger import receipt_settings
from tirazh.pipeline.output.names import STAGED, OutputFiles
from tirazh.pipeline.output.plan_file import Target, choose_target, job_difference, read_plan
from tirazh.pipeline.output.state import survey
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.planned_files import Continued
from tirazh.pipeline.spec import JobSpec
from tirazh.pipeline.storage.filesystem import keep_trying


@dataclass(frozen=True, slots=True)
class Step:
    """A staged output that continues the complete one. `base` is the plan of that, `text` what is done. `rows` of the
    output are answered."""

    target: Target
    base: Plan
    text: str
    rows: int = 0


def next_steps(output: OutputFiles, plan: Plan, spec: JobSpec) -> Iterator[Step]:
    """The steps of a run; the next one is found after the one before has been promoted.

    `plan` is what the settings alone give. Writes nothing. Raises OutputError for files that cannot be added.
    """
    if spec.retry_failed and (step := _retry(output, spec)) is not None:
        yield step
    while spec.append and (step := _append(output, plan, spec)) is not None:
        yield step


def join_step(output: OutputFiles, spec: JobSpec) -> Step | None:
    """The step that joins the small files of a complete output; None where there are few. Writes nothing."""
    base = keep_trying(lambda: read_plan(output))
    if base is None or not keep_trying(output.is_complete):
        return None
    plan = plan_join(base, keep_trying(output.parts), spec)
    if plan is None:
        return None
    text = f"join {_parts(len(base.parts))} to {len(plan.parts):,}"
    return Step(staged_target(output, base, plan), base, text)


def is_joining(output: OutputFiles) -> bool:
    """Whether an earlier run was interrupted while it joined the files of the complete output."""
    if STAGED not in keep_trying(lambda: output.storage.directories(output.own())):
        return False
    try:
        stored = keep_trying(lambda: read_plan(output.staged))
    except OutputError:
        return False
    continued = stored.continued if stored is not None else None
    return continued == Continued(keep_trying(output.completed_plan) or "", "join")


def _retry(output: OutputFiles, spec: JobSpec) -> Step | None:
    base = keep_trying(lambda: read_plan(output))
    if base is None:
        return None
    state = survey(base, output, receipt_settings(spec))
    if state.remaining:
        return None
    plan = plan_retry(base, state.receipts)
    if plan is None:
        return None
    parts = sum(1 for receipt in state.receipts.values() if receipt.errors)
    text = f"answer {_rows(state.errors)} with an error again, in {_parts(parts)}; all other rows stay as they are"
    return Step(staged_target(output, base, plan), base, text, state.errors)


def _append(output: OutputFiles, plan: Plan, spec: JobSpec) -> Step | None:
    adding = Adding.of(spec)
    added = choose_target(output, plan, overwrite=False, adding=adding).added
    base = keep_trying(lambda: read_plan(output))
    if base is None or not added or not keep_trying(output.is_complete):
        return None
    target = _interrupted(output, base, plan, adding)
    if target is None:
        appended = plan_append(base, plan, added, spec, output)
        if appended is None:
            return None
        target = staged_target(output, base, appended)
    new, parts = target.plan.output_rows - base.output_rows, len(target.plan.parts) - len(base.parts)
    left_out = target.plan.left_out_rows - base.left_out_rows
    out = f"; {_rows(left_out)} with keys that are there already {'is' if left_out == 1 else 'are'} left out"
    text = f"add {_rows(new, 'new ')} in {_parts(parts)} to the {_rows(base.output_rows)} of the output"
    return Step(target, base, text + (out if left_out else ""), new)


def _interrupted(output: OutputFiles, base: Plan, plan: Plan, adding: Adding | None) -> Target | None:
    """The staged output of an earlier run that adds files to the same output, if it can be continued."""
    try:
        stored = keep_trying(lambda: read_plan(output.staged))
    except OutputError:
        return None
    if stored is None or stored.continued is None or stored.continued.step != "append":
        return None
    if stored.continued.plan_id != base.id or job_difference(stored, plan, adding) is not None:
        return None
    staged = _keeping(output, base, stored)
    found = continue_plan(stored, plan, staged)
    return Target(staged, found.plan, is_stored=True, is_staged=True, lines=found.lines) if found.may_continue else None


def staged_target(output: OutputFiles, base: Plan, plan: Plan) -> Target:
    """The staged output of `plan`, which continues `base`: that of an earlier run, if it has the same plan."""
    try:
        stored = keep_trying(lambda: read_plan(output.staged))
    except OutputError:
        stored = None
    is_stored = stored is not None and stored.id == plan.id
    return Target(_keeping(output, base, plan), plan, is_stored=is_stored, is_staged=True)


def _keeping(output: OutputFiles, base: Plan, plan: Plan) -> OutputFiles:
    return output.keeping({part.name for part in base.parts} & {part.name for part in plan.parts})


def _rows(count: int, kind: str = "") -> str:
    return f"1 {kind}row" if count == 1 else f"{count:,} {kind}rows"


def _parts(count: int) -> str:
    return "1 part" if count == 1 else f"{count:,} parts"
