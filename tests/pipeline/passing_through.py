"""Takes a Parquet file through the functions of the pipeline, without Ray and without a model."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ray._private.arrow_serialization import _arrow_table_reduce

from tests.pipeline.without_ray import with_scores
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classification.answers import AnswerLayout
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.parts import Part, cut_evenly
from tirazh.pipeline.input.ranges import range_reader
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.input.schemas.planned_schema import with_metadata_of
from tirazh.pipeline.input.unify import unify
from tirazh.pipeline.output.assemble import OutputLayout, assemble
from tirazh.pipeline.output.write import to_parquet
from tirazh.pipeline.storage.filesystem import Storage

LABELS = ("sport", "economics")


def pass_through(path: Path, output: Path, tokenizer: Tokenizer, *, part_rows: int | None = None) -> list[Path]:
    """Read, transport, label and write the rows of a file, in parts; return the files of the output."""
    storage = Storage()
    (file,) = storage.walk(str(path))
    (footer,) = read_footers(storage, [file], text_columns=())
    columns = with_metadata_of(unify([footer], range_reader(storage)).schema, [(file.uri, footer.schema)])
    layout = OutputLayout(
        columns=columns, added=pa.schema(schema.classify_fields()), answers=(AnswerLayout(labels=LABELS),)
    )
    cuts = cut_evenly(footer.rows, part_rows or footer.rows)
    output.mkdir(exist_ok=True)
    written = []
    for index, (start, stop) in enumerate(pairwise(cuts)):
        table = transported(read_part(Part(index, len(cuts) - 1, file, start, stop), storage, columns))
        table = table.append_column(schema.PROMPT_IDS, pa.array([[1]] * table.num_rows, pa.list_(pa.int32())))
        table = table.append_column(schema.ROW_SEED, pa.array([0] * table.num_rows, pa.int64()))
        table = table.append_column(schema.ROW_ERROR, pa.nulls(table.num_rows, pa.string()))
        done = assemble(transported(with_scores(table)), layout, tokenizer)
        written.append(output / f"part-{index:05d}.parquet")
        written[-1].write_bytes(to_parquet(done, footer={"part": index}, columns=columns))
    return written


def transported(table: pa.Table) -> pa.Table:
    """The table as it arrives in another process of Ray."""
    try:
        make, values = _arrow_table_reduce(table)
        received: pa.Table = make(*pickle.loads(pickle.dumps(values)))
        return received
    except ValueError:  # list views, which Ray sends as Arrow IPC outside of tests
        return pa.Table.from_batches(pickle.loads(pickle.dumps(table.to_batches())), table.schema)


def read_input(path: Path) -> pa.Table:
    """The rows of an input file as the pipeline reads them."""
    return pq.ParquetFile(path, **READ_OPTIONS).read()


def read_output(files: list[Path]) -> pa.Table:
    """All columns of the output as pyarrow reads them by default."""
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files])
