"""The sink: writes the results of one part as one Parquet file, atomically.

It runs as a CPU task of Ray Data. The receipt (rows, tokens, errors, SHA-256) is written before the
part file, so that every part file has one. The same rows give the same bytes: a part that is
written again, after a crash between the two writes, is replaced by an identical file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tirazh.actors.garbage import collect_rarely
from tirazh.pipeline import schema
from tirazh.pipeline.input.parts import part_name
from tirazh.pipeline.input.texts import values_of
from tirazh.pipeline.output.assemble import OutputLayout, assemble
from tirazh.pipeline.output.lease import LeaseToken
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.prompts.encode import cached_tokenizer
from tirazh.pipeline.storage.filesystem import keep_trying

FOOTER_KEY = b"tirazh"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Facts about a part file.

    `labels` counts the rows of every label; rows with a null label (abstained) are counted under "".
    `confusion` counts rows by (gold label, label); it is empty without --gold-column.
    """

    part: int
    rows: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    file_bytes: int
    sha256: str
    error_kinds: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    confusion: list[tuple[str, str, int]] = field(default_factory=list)
    confidence_sum: float = 0.0

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Parse a receipt. Raises ValueError, KeyError or TypeError for anything else."""
        try:
            values = json.loads(data)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        values["confusion"] = [tuple(cell) for cell in values["confusion"]]
        receipt = cls(**values)
        if not all(isinstance(number, int) for number in (receipt.rows, receipt.errors, receipt.file_bytes)):
            raise TypeError("its counts must be integers")
        return receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteConfig:
    """What the sink needs besides the rows.

    `lease` is checked before each part is written, if it is given.
    """

    output: OutputFiles
    layout: OutputLayout
    fingerprint: str
    total_parts: int
    tokenizer_dir: str
    prefix: str
    gold_column: str | None
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
        config, name = self.config, part_name(part, self.config.total_parts)
        output = config.output
        done = assemble(table, config.layout, cached_tokenizer(config.tokenizer_dir))
        data = to_parquet(done, footer={"part": part, "rows": done.num_rows, "fingerprint": config.fingerprint})
        receipt = make_receipt(part, done, data, prefix=config.prefix, gold_column=config.gold_column)
        text = json.dumps(asdict(receipt), ensure_ascii=False).encode()
        # Another run may have taken the output over while this part was inferred.
        if config.lease is not None:
            keep_trying(config.lease.check)
        # Both writes replace identical files, so they may be repeated after an outage or by a
        # second task.
        keep_trying(lambda: output.storage.write(output.receipt(name), text))
        keep_trying(lambda: output.storage.write(output.part(name), data))
        return summary_row(part, rows=receipt.rows, errors=receipt.errors, written=True)


def summary_row(part: int, *, rows: int = 0, errors: int = 0, written: bool = False) -> pa.Table:
    """The row about one part that the driver receives. `written` is False for a skipped part."""
    return pa.table({"part": [part], "rows": [rows], "errors": [errors], "written": [written]})


def to_parquet(table: pa.Table, *, footer: dict[str, Any]) -> bytes:
    """Serialise the table as zstd Parquet with `footer` in its metadata.

    Equal tables give equal bytes.
    """
    table = table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def make_receipt(part: int, table: pa.Table, data: bytes, *, prefix: str, gold_column: str | None) -> Receipt:
    """Build the receipt of a part from its output table and the bytes of its file."""
    errors = table.column(prefix + schema.ERROR)
    is_classify = prefix + schema.LABEL in table.column_names
    kinds = Counter(error for error in errors.to_pylist() if error is not None)
    return Receipt(
        part=part,
        rows=table.num_rows,
        errors=table.num_rows - errors.null_count,
        prompt_tokens=_sum(table, prefix + schema.PROMPT_TOKENS),
        completion_tokens=0 if is_classify else _sum(table, prefix + schema.COMPLETION_TOKENS),
        file_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        # Messages may contain numbers of the row, so their count is bounded. They are sorted for
        # reproducible bytes.
        error_kinds=dict(sorted(kinds.most_common(20))),
        labels=_count_labels(table, prefix) if is_classify else {},
        confusion=_confusion(table, prefix, gold_column) if is_classify and gold_column else [],
        confidence_sum=float(_sum(table, prefix + schema.CONFIDENCE)) if is_classify else 0.0,
    )


def _sum(table: pa.Table, name: str) -> Any:
    return pc.sum(table.column(name)).as_py() or 0


def _good_labels(table: pa.Table, prefix: str) -> list[tuple[int, str]]:
    """(row, label) of the rows without an error; the label is "" for a row that abstained."""
    errors = table.column(prefix + schema.ERROR).to_pylist()
    labels = table.column(prefix + schema.LABEL).to_pylist()
    return [(row, label or "") for row, (label, error) in enumerate(zip(labels, errors, strict=True)) if error is None]


def _count_labels(table: pa.Table, prefix: str) -> dict[str, int]:
    return dict(sorted(Counter(label for _, label in _good_labels(table, prefix)).items()))


def _confusion(table: pa.Table, prefix: str, gold_column: str) -> list[tuple[str, str, int]]:
    golds = values_of(table.column(gold_column))
    pairs = Counter((golds[row], label) for row, label in _good_labels(table, prefix) if isinstance(golds[row], str))
    return [(gold, label, count) for (gold, label), count in sorted(pairs.items())]
