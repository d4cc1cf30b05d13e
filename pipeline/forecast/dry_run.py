"""What a run would do with its output, for `--dry-run` and `tirazh plan`.

It asks what the run itself asks before it starts, and changes nothing: it takes no lease and creates no
directory.
"""

from __future__ import annotations

from typing import Any

from tirazh.errors import OutputError
from tirazh.pipeline.output.generations.adding import Adding, check_adding
from tirazh.pipeline.output.generations.steps import next_steps
from tirazh.pipeline.output.leases.record import LeaseRecord, epochs, parse, read_epoch, wall_age
from tirazh.pipeline.output.ledger import finished_manifest, receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.notices import notices
from tirazh.pipeline.output.plan_file import Target, choose_target, read_plan
from tirazh.pipeline.output.promotion import pending_plan
from tirazh.pipeline.output.state import survey
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import JobSpec
from tirazh.pipeline.unused_settings import unused_settings


def dry_run(spec: JobSpec, plan: Plan) -> dict[str, Any]:
    """Return what the run would find and do; `plan` is one that `plan_job` returned.

    `output_state` is "new", "unfinished", "complete" or "another job" (to be replaced), `would` a sentence,
    `finished_parts` the parts that are kept, `rows_to_make` the rows of the output that it would make (None where
    that is not known yet), `held_by` the run that holds the output now, and `notes`
    sentences about settings and the input. Raises OutputError where the run would.
    """
    check_adding(spec)
    output = OutputFiles(plan.job.storage, plan.job.output)
    facts: dict[str, Any] = {"output": spec.output, "held_by": _holder(output)}
    notes = [*plan.passed_over, *plan.unified, *unused_settings(spec, plan)]
    if pending_plan(output) is not None:
        would = "complete the change of the output that an earlier run started"
        unknown = {"finished_parts": None, "rows_to_make": None}
        return facts | {"output_state": "unfinished", "would": would, **unknown, "notes": notes}
    target = choose_target(output, plan, overwrite=spec.overwrite, adding=Adding.of(spec))
    found, more = _describe(target, output, spec, plan)
    return facts | found | {"notes": [*notes, *more]}


def _describe(target: Target, output: OutputFiles, spec: JobSpec, plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """What the run would do with the output that it writes to, and the lines that it would print."""
    if not target.is_stored:
        would = _replacement(output) if target.is_staged else "start a new output"
        name = "another job" if target.is_staged else "new"
        found = {"output_state": name, "would": would, "finished_parts": 0, "rows_to_make": plan.output_rows}
        return found, notices(target, None, plan, spec)
    total = len(target.plan.parts)
    settings = receipt_settings(spec)
    if not target.is_staged and finished_manifest(target.plan, target.output, settings) is not None:
        # Which rows are new is known only in a complete output.
        step = next(next_steps(output, plan, spec), None)
        would = "do nothing: the output is complete" if step is None else step.text
        found = {"output_state": "complete", "would": would, "finished_parts": total}
        found |= {"rows_to_make": 0 if step is None else step.rows}
        return found, [*notices(target, None, plan, spec), *(step.target.lines if step is not None else ())]
    state = survey(target.plan, target.output, settings)
    if spec.retry_failed and not target.is_staged and not state.remaining and state.errors:
        step = next(next_steps(output, plan, spec), None)
        if step is not None:
            found = {"output_state": "unfinished", "would": step.text, "finished_parts": total}
            found |= {"rows_to_make": step.rows}
            return found, notices(target, state, plan, spec)
    finished = total - len(state.remaining)
    would = (
        f"resume: {finished:,} of {total:,} parts ({state.rows:,} of {target.plan.output_rows:,} rows) are finished"
        if state.remaining
        else "make no part: all are finished, and only the last step is missing"
    )
    if target.is_staged:
        would = f"{would}; {_replacement(output)}"
    found = {"output_state": "another job" if target.is_staged else "unfinished", "would": would}
    found |= {"finished_parts": finished, "rows_to_make": target.plan.output_rows - state.rows}
    return found, notices(target, state, plan, spec)


def _replacement(output: OutputFiles) -> str:
    try:
        stored = read_plan(output)
    except OutputError:
        stored = None
    rows = f" ({stored.output_rows:,} rows, {'complete' if output.is_complete() else 'unfinished'})" if stored else ""
    return f"replace the output of another job{rows} once the new output is complete; until then it stays readable"


def _holder(output: OutputFiles) -> str | None:
    """The run that holds the output now, as far as it can be seen without waiting for a renewal."""
    newest = epochs(output)[-1:]
    record = parse(read_epoch(output, newest[0])) if newest else None
    if record is None or record.released or not _seems_alive(record):
        return None
    return f"{record}, last heartbeat {wall_age(record):.0f} s ago"


def _seems_alive(record: LeaseRecord) -> bool:
    return record.process.is_alive if record.process.is_here else wall_age(record) <= record.lease_s
