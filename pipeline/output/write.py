"""The sink: writes the results of one part as one Parquet file, atomically.

It runs as a CPU task of Ray Data. A part is created and never replaced: if its file exists already,
because another task made the same part or because the response to our own write was lost, the stored file
counts. The receipt (rows, tokens, errors, SHA-256) is written after the file and describes what is stored.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.actors.garbage import collect_rarely
from tirazh.errors import InputError, JobError
from tirazh.pipeline import schema
from tirazh.pipeline.input.changes import find_differing_value
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.schemas.planned_schema import columns_without_statistics, copy_parquet_types
from tirazh.pipeline.output.assemble import OutputLayout, assemble_rows
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import LeaseToken
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.receipt import (
    FOOTER_KEY,
    Receipt,
    ReceiptSettings,
    check_belongs,
    describe_part,
    make_receipt,
    receipt_columns,
)
from tirazh.pipeline.output.rows.failed_rows import read_output_rows, replace_failed
from tirazh.pipeline.prompts.encode import cached_tokenizer
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying

# A file under the name of a part that is damaged, or was made from other input rows, is removed and the part
# written again. All files were read at the start of the run, so more than one such file means that the storage
# does not keep what is written to it.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class MadePart:
    """What the sink knows about a part: its name, its plan, and the version of the input file that this run reads.

    `replaces` is the URI of the part file whose rows without an error are kept; the others have been answered again.
    """

    name: str
    plan_id: str
    input_version: str
    replaces: str | None = None

    @classmethod
    def of(cls, part: Part) -> MadePart:
        """That of a part of a plan, all rows of which are made."""
        return cls(part.name, part.plan_id, part.input_version)


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteConfig:
    """What the sink needs besides the rows.

    `output` is the directory that the parts are written to, `lease` that of the job's output, checked before
    every write. It is None only for an output that no other run can see. `parts` are those that are made, by their
    numbers.
    """

    output: OutputFiles
    layout: OutputLayout
    parts: Mapping[int, MadePart]
    tokenizer_dir: str
    receipts: ReceiptSettings
    lease: LeaseToken | None = None


class WriteStep:
    """The last step of the graph: writes the table of a part and returns one row about it."""

    def __init__(self, config: WriteConfig) -> None:
        self.config = config

    def __call__(self, table: pa.Table) -> pa.Table:
        collect_rarely()
        part = table.column(schema.PART)[0].as_py()
        if schema.ROW_ERROR not in table.column_names:
            return summary_row(part)
        config = self.config
        made, answered = config.parts[part], table.num_rows * config.layout.rows_per_input_row
        try:
            earlier = self._earlier(made.replaces) if made.replaces is not None else None
            footer = self._footer(part, answered if earlier is None else earlier.num_rows)
            kept: list[pa.Table] = []
            rows = self._rows(table, kept, earlier)
            data = tables_to_parquet(rows, config.layout.schema, footer=footer, columns=config.layout.columns)
        except pa.ArrowException as error:
            name = made.name
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise JobError(
                f"the results of {name} ({table.num_rows} rows) cannot be written as Parquet: {reason}"
            ) from error
        receipt = self.store(describe_part(pa.concat_tables(kept), data, footer, config.receipts), data)
        tokens = (receipt.prompt_tokens, receipt.completion_tokens)
        return summary_row(part, rows=min(receipt.rows, answered), errors=receipt.errors, tokens=tokens, written=True)

    def _earlier(self, uri: str) -> pa.Table:
        """The rows of the part file that is replaced."""
        data = keep_trying(lambda: self.config.output.storage.read(uri))
        return read_output_rows(data, self.config.layout)

    def _rows(self, table: pa.Table, kept: list[pa.Table], earlier: pa.Table | None) -> Iterator[pa.Table]:
        """The output rows of a part; `kept` receives the columns of its receipt.

        `earlier` are the rows of the part file that is replaced, None for a part all rows of which are made.
        """
        layout, tokenizer = self.config.layout, cached_tokenizer(self.config.tokenizer_dir)
        made = assemble_rows(table, layout, tokenizer)
        if earlier is not None:
            made = iter([replace_failed(earlier, pa.concat_tables(list(made)), layout, self.config.receipts.prefix)])
        for rows in made:
            kept.append(rows.select(receipt_columns(rows.column_names, self.config.receipts)))
            yield rows

    def _footer(self, part: int, rows: int) -> dict[str, Any]:
        made = self.config.parts[part]
        return {"part": part, "rows": rows, "plan_id": made.plan_id, "input_version": made.input_version}

    def store(self, made: Receipt, data: bytes) -> Receipt:
        """Create the part file from `data` and write its receipt, which describes the file that is stored.

        `made` is the receipt of `data`. Another one is returned if the part was stored already.
        """
        config = self.config
        part, rows = made.part, made.rows
        name, plan_id = config.parts[part].name, config.parts[part].plan_id
        output, uri = GuardedOutput(config.output, config.lease), config.output.part(name)
        for _ in range(_ATTEMPTS):
            is_new = output.create(uri, data, undo=lambda: config.output.storage.remove(uri))
            stored = data if is_new else keep_trying(lambda: _read(config.output, uri))
            if stored is None:  # removed in between, by the next holder of the lease or by hand
                continue
            try:
                receipt = made if is_new else make_receipt(stored, config.receipts)
                check_belongs(receipt, part=part, rows=rows, plan_id=plan_id)
                if not is_new:
                    _check_input_columns(stored, data, config.layout.columns.names)
            except ValueError:
                output.remove(uri)
                continue
            output.write(config.output.receipt(name), receipt.to_json())
            return receipt
        raise JobError(f"{show_uri(uri)} is damaged each time it is written; check the storage, and run the job again")


def _check_input_columns(stored: bytes, made: bytes, names: list[str]) -> None:
    """Raise ValueError unless a stored part file has the same input rows as the one that this run has made.

    A run that continues on a rewritten input file keeps the plan. A late write of the former holder may then
    have other rows under the same name.
    """
    if stored == made:
        return
    try:
        tables = [pq.read_table(pa.BufferReader(data), columns=names) for data in (stored, made)]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"its rows cannot be read ({type(error).__name__})") from error
    found = find_differing_value(*tables)
    if found is not None:
        raise ValueError(f"row {found[0]} differs from the input in column {found[1]!r}")


def _read(output: OutputFiles, uri: str) -> bytes | None:
    try:
        return output.storage.read(uri)
    except InputError:
        return None


def summary_row(
    part: int, *, rows: int = 0, errors: int = 0, tokens: tuple[int, int] = (0, 0), written: bool = False
) -> pa.Table:
    """The row about one part that the driver receives. `tokens` are those of prompts and of completions. `written` is
    False for a skipped part."""
    counts = {"rows": [rows], "errors": [errors], "prompt_tokens": [tokens[0]], "completion_tokens": [tokens[1]]}
    return pa.table({"part": [part], **counts, "written": [written]})


def to_parquet(table: pa.Table, *, footer: dict[str, Any], columns: pa.Schema | None = None) -> bytes:
    """Serialise the table as zstd Parquet with `footer` in its metadata.

    `columns` is the planned schema of the input columns, with the logical types that Arrow cannot write. Equal
    tables give equal bytes.
    """
    return tables_to_parquet([table], table.schema, footer=footer, columns=columns)


def tables_to_parquet(
    tables: Iterable[pa.Table], arrow_schema: pa.Schema, *, footer: dict[str, Any], columns: pa.Schema | None = None
) -> bytes:
    """Serialise tables of `arrow_schema` as `to_parquet` does, each as a row group of its own."""
    metadata = {**(arrow_schema.metadata or {}), FOOTER_KEY: json.dumps(footer, sort_keys=True).encode()}
    arrow_schema = arrow_schema.with_metadata(metadata)
    sink = io.BytesIO()
    statistics = _statistics(arrow_schema, columns)
    with pq.ParquetWriter(sink, arrow_schema, compression="zstd", write_statistics=statistics) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(metadata))
    return copy_parquet_types(sink.getvalue(), columns) if columns is not None else sink.getvalue()


def _statistics(schema: pa.Schema, columns: pa.Schema | None) -> bool | list[str]:
    """The paths of the columns whose minimum and maximum are written; True for all."""
    without = columns_without_statistics(columns) if columns is not None else frozenset()
    if not without:
        return True
    sink = io.BytesIO()
    pq.ParquetWriter(sink, schema).close()
    written = pq.read_metadata(sink).schema
    paths = [written.column(index).path for index in range(len(written))]
    return [path for path in paths if not any(path == name or path.startswith(f"{name}.") for name in without)]
