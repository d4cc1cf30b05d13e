"""A finished classify job without prompts and without a model: the scores of every row are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.classify_columns import answer_layouts
from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.ledger import finish, receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import write_plan
from tirazh.pipeline.output.write import MadePart, WriteConfig, WriteStep
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

TOO_LONG = "the prompt is too long"


def finish_with_scores(spec: ClassifySpec, scores: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """Write the output of a job whose input is one file; return its manifest.

    `scores` are those of the labels of all questions for every row; a row without has an error.
    """
    plan, output = plan_job(spec), OutputFiles(Storage(), spec.output)
    layout = OutputLayout(columns=plan.schema, added=added_columns(spec, plan.schema), answers=answer_layouts(spec))
    step = WriteStep(
        WriteConfig(
            output=output,
            layout=layout,
            parts={part.index: MadePart.of(part) for part in plan.parts},
            tokenizer_dir=spec.model,
            receipts=receipt_settings(spec),
        )
    )
    write_plan(output, plan)
    for part in plan.parts:
        step(_scored(read_part(part, output.storage, plan.schema), scores[part.start : part.stop]))
    return finish(plan, output, spec, {"seconds": 1.0})


def _scored(table: pa.Table, scores: Sequence[Sequence[float] | None]) -> pa.Table:
    errors = pa.array([TOO_LONG if row is None else None for row in scores], pa.string())
    table = table.append_column(schema.ROW_ERROR, errors)
    table = table.append_column(schema.NUM_PROMPT_IDS, pa.array([7] * table.num_rows, pa.int32()))
    return table.append_column(schema.LABEL_LOGPROBS, pa.array(scores, pa.list_(pa.float64())))
