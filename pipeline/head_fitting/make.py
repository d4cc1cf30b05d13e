"""Makes the head of a job: embeds the examples with the job's own template and model, fits it and stores it.

The examples are embedded by a job of their own below the output, `_tirazh/head/`, which resumes like any other. The
head is stored before the first part of the output is written, and every later run takes the stored one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.errors import JobError
from tirazh.pipeline import schema
from tirazh.pipeline.classification.head.fit import fit_head
from tirazh.pipeline.classification.head.linear import HEAD_POOLING, LinearHead
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.head_fitting.file import head_to_json, read_head, sources_of
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.names import HEAD, HEAD_FOLDER, OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.source import CLASSIFY_TEMPLATE, GENERATE_TEMPLATE
from tirazh.pipeline.prompts.template_columns import written
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, JobSpec
from tirazh.pipeline.storage.filesystem import keep_trying

# The columns of the embeddings must not have the names of columns of the examples.
_PREFIX = "tirazh_head_"


def make_head(
    spec: ClassifySpec, plan: Plan, output: GuardedOutput, embed: Callable[[EmbedSpec], object]
) -> LinearHead:
    """Return the stored head of an output, or fit one and store it. `embed` runs a job.

    Raises OutputError for a stored head that cannot be used, JobError if an example has no embedding.
    """
    files, sources = output.files, sources_of(spec, plan)
    folder = files.own(HEAD_FOLDER)
    head = read_head(files, sources)
    if head is None:
        embed(spec_of_examples(spec, plan, folder))
        states_NC, targets = read_states(OutputFiles(files.storage, folder))
        head = fit_head(states_NC, targets, tuple(spec.labels or ()), seed=spec.seed)
        if not output.create(files.own(HEAD), head_to_json(head, sources)):
            head = read_head(files, sources) or head
    if HEAD_FOLDER in keep_trying(lambda: files.storage.directories(files.own())):
        output.remove(folder, recursive=True)
    return head


def spec_of_examples(spec: ClassifySpec, plan: Plan, output: str) -> EmbedSpec:
    """The job that embeds the examples of `spec` with its prompts."""
    shared = {each.name: getattr(spec, each.name) for each in fields(JobSpec)}
    template = CLASSIFY_TEMPLATE.replace(GENERATE_TEMPLATE, f"{{{{ {written(spec.text_column)} }}}}")
    assert spec.examples is not None, "a head is fitted on examples"
    own: dict[str, Any] = {
        "input": (spec.examples,),
        "output": output,
        "prefix": _PREFIX,
        "template": template if spec.template is None else spec.template,
        "truncate": spec.chosen_truncate,
        "dtype": plan.dtype,
        "seq_length": plan.seq_length,
        "limit": None,
        "part_rows": None,
        "max_error_rate": 1.0,  # `read_states` names the row
        "overwrite": True,
        "append": False,
        "key": None,
        "retry_failed": False,
        "text_column": spec.text_column,
        "pooling": HEAD_POOLING,
    }
    return EmbedSpec(**shared | own)


def read_states(output: OutputFiles) -> tuple[NDArray[np.float32], list[str]]:
    """Read the hidden states of the examples, float32 [N, C], and their labels, in the order of the file."""
    columns = [schema.LABEL, _PREFIX + schema.EMBEDDING, _PREFIX + schema.ERROR]
    parts = [
        pq.read_table(pa.BufferReader(keep_trying(partial(output.storage.read, output.part(name)))), columns=columns)
        for name in sorted(keep_trying(output.parts))
    ]
    table = pa.concat_tables(parts)
    return stack_states(table.column(columns[1]), table.column(columns[2]).to_pylist()), values_of(table.column(0))


def stack_states(states: pa.ChunkedArray[Any], errors: list[str | None]) -> NDArray[np.float32]:
    """Return lists of numbers as float32 [N, C]. Raises JobError for a row with an error."""
    failed = next((number for number, error in enumerate(errors, start=1) if error is not None), None)
    if failed is not None:
        raise JobError(f"--examples, row {failed}: {errors[failed - 1]}; correct or remove the row")
    flat: Any = pa.concat_arrays([chunk.flatten() for chunk in states.chunks])  # type: ignore[attr-defined]
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float32).reshape(len(errors), -1)
