"""What a user has to know about a run: what else the model directory holds, settings without effect, damaged parts."""

from __future__ import annotations

from tirazh.pipeline.output.plan_file import Target
from tirazh.pipeline.output.state import OutputState
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.trained_task import task_line

_SHOWN = 3


def notices(target: Target, state: OutputState | None, new_plan: Plan, spec: JobSpec) -> list[str]:
    """The lines about a run, most of them if it resumes `target`; `new_plan` is what its settings alone would give.

    `state` is None for a complete output in which nothing has to be done.
    """
    about_model = list(new_plan.model.notices) if new_plan.model is not None else []
    about_task = task_line(spec)
    about_model += [about_task] if about_task is not None else []
    if not target.is_stored:
        return about_model
    lines = [*about_model, *target.lines]
    place = show_uri(target.output.directory)
    if spec.overwrite and not target.is_staged:
        remaining = len(state.remaining) if state is not None else 0
        now = (
            f"its remaining parts ({remaining:,} of {len(target.plan.parts):,}) are made"
            if remaining
            else "it is complete"
        )
        lines.append(f"--overwrite has nothing to replace: {place} is the output of this same job, and {now}")
    cuts = {uri: planned.cuts for uri, planned in target.plan.current_files.items()}
    # Files of which the same rows are taken: the input may have changed.
    same = [each for each in new_plan.files if each.cuts[-1] == cuts.get(each.file.uri, (0,))[-1]]
    is_cut_otherwise = target.plan.placed is None and any(each.cuts != cuts[each.file.uri] for each in same)
    if spec.part_rows is not None and is_cut_otherwise:
        lines.append(
            f"--part-rows {spec.part_rows} has no effect: {place} was started with parts of {_rows_text(target.plan)} "
            "rows, which this run keeps"
        )
    if state is not None and state.damaged:
        names = ", ".join(state.damaged[:_SHOWN]) + (", …" if len(state.damaged) > _SHOWN else "")
        parts = "1 part is" if len(state.damaged) == 1 else f"{len(state.damaged):,} parts are"
        lines.append(f"{parts} damaged (no complete file, or not the file of its receipt), and made again: {names}")
    if state is not None and state.rescored and isinstance(spec, ClassifySpec):
        columns = dict.fromkeys(question.gold_column for question in spec.asked if question.gold_column)
        what = f"--gold-column {', '.join(columns)}" if columns else "without --gold-column"
        lines.append(f"{what}: {state.rescored:,} finished parts are scored again from their files")
    return lines


def _rows_text(plan: Plan) -> str:
    sizes = {part.rows for part in plan.parts}
    return f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
