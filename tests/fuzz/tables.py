"""Valid Parquet files to damage, and a function that runs all stages of a job except inference."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classify_columns import answer_layouts
from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.output.assemble import OutputLayout, assemble
from tirazh.pipeline.output.write import to_parquet
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.prompt_setup import set_up_prompts
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.filesystem import Storage

ROWS = 60


def valid_table(rows: int = ROWS) -> pa.Table:
    return pa.table(
        {
            "text": [f"новость номер {row}" for row in range(rows)],
            "id": list(range(rows)),
            "tags": [["a", "b"][: row % 3] for row in range(rows)],
            "topic": pa.array(["sport", "economics"] * (rows // 2)).dictionary_encode(),
        }
    )


def parquet(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def run_without_inference(spec: JobSpec) -> None:
    """Run all stages of a job except inference: plan, read, encode prompts and serialise the output.

    Columns that inference would fill hold nulls. Only the first four parts are processed.
    """
    plan = plan_job(spec)
    prompts = set_up_prompts(spec, plan)
    answers = answer_layouts(spec) if isinstance(spec, ClassifySpec) else ()
    layout = OutputLayout(columns=plan.schema, added=added_columns(spec), answers=answers)
    for part in plan.parts[:4]:
        table = PromptStep(prompts.config)(read_part(part, Storage(), plan.schema))
        result = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.REPETITION])
        nulls = pa.nulls(table.num_rows)
        result = result.append_column(schema.NUM_PROMPT_IDS, nulls.cast(pa.int32()))
        if answers:
            result = result.append_column(schema.LABEL_LOGPROBS, nulls.cast(pa.list_(pa.float64())))
        else:
            result = result.append_column(schema.COMPLETION_IDS, nulls.cast(pa.list_(pa.list_(pa.int32()))))
            result = result.append_column(schema.TEXT_ENDS, nulls.cast(pa.list_(pa.int32())))
            result = result.append_column(schema.REASONS, nulls.cast(pa.list_(pa.string())))
            result = result.append_column(schema.COMPLETION_LOGPROBS, nulls.cast(pa.list_(pa.float64())))
        to_parquet(assemble(result, layout, load_tokenizer(str(spec.model))), footer={})


WRITERS: dict[str, dict[str, Any]] = {
    "snappy": {},
    "zstd": {"compression": "zstd", "row_group_size": 20},
    "plain": {"compression": "none", "use_dictionary": False},
    "pages": {"data_page_size": 64, "data_page_version": "2.0", "row_group_size": 31},
    "delta": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"}},
    "index": {"write_page_index": True, "write_page_checksum": True},
}
