"""Previews a job of any shape: of several steps the first one, with the reasons that a filter behind it finds."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.preview.run import OnRows, preview_job
from tirazh.pipeline.spec import JobSpec, StepsSpec
from tirazh.pipeline.steps.expand import steps_of
from tirazh.pipeline.steps.filtering.quality import Rules
from tirazh.pipeline.steps.plan import plan_steps


def preview_spec(
    spec: JobSpec | StepsSpec, *, rows: int = 8, tell: Tell | None = None, on_rows: OnRows | None = None
) -> dict[str, Any]:
    """Preview a job, as `preview_job` does.

    Of a job of several steps, the rows of the first one are made. If a filter follows it, their output also has `kept`
    and `drop_reasons`, without those of the search for duplicates, which needs all rows. Raises RequestError.
    """
    steps = steps_of(spec)
    if steps is None:
        assert isinstance(spec, JobSpec), "a job of one step has a model"
        return preview_job(spec, rows=rows, tell=tell, on_rows=on_rows)
    first, *rest = plan_steps(steps)
    assert isinstance(first.spec, JobSpec), "the first step reads the input, so it has a model"
    rules = rest[0].rules if rest else None
    judge = None if rules is None else _Judge(rules)
    found = preview_job(first.spec, rows=rows, tell=tell, on_rows=on_rows, judge=judge)
    skipped = [step.name for step in (rest[1:] if rules is not None else rest) if step.spec is not None]
    return found | {"notes": [*found["notes"], *_notes(first.name, skipped, rules)]}


class _Judge:
    """Adds `kept` and `drop_reasons` to rows, and masks personal data in them."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def __call__(self, table: pa.Table) -> pa.Table:
        judged = self._rules.judge(table)
        kept = pa.array([not reasons for reasons in judged.reasons], pa.bool_())
        reasons = pa.array(judged.reasons, pa.list_(pa.string()))
        return judged.table.append_column(schema.KEPT, kept).append_column(schema.DROP_REASONS, reasons)


def _notes(first: str, skipped: list[str], rules: Rules | None) -> list[str]:
    notes = []
    if rules is not None and rules.dedup is not None:
        notes.append("duplicates are not looked for in a preview: that needs all rows")
    if skipped:
        notes.append(f"only the step {first!r} is previewed; {', '.join(map(repr, skipped))} work on its rows")
    return notes
