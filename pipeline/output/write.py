"""The sink: one part's answers become one Parquet file, whole or not at all. Runs as a CPU task of Ray Data.

Before the file comes its receipt (rows, tokens, errors, SHA-256), so that a part that is there has one. The same rows
make the same bytes, so a part that is written twice, after a crash between the two, is written over with itself.
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
    """What is known of a part's file. `labels` counts the rows of every label (abstained rows under ""), `confusion`
    rows by [gold label, label], empty unless the job has a gold column."""

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
        """Raises ValueError, KeyError or TypeError when it is none."""
        try:
            values = json.loads(data)
        except RecursionError:
            raise ValueError("nested too deep") from None
        values["confusion"] = [tuple(cell) for cell in values["confusion"]]
        receipt = cls(**values)
        if not all(isinstance(number, int) for number in (receipt.rows, receipt.errors, receipt.file_bytes)):
            raise TypeError("counts must be whole numbers")
        return receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteConfig:
    """What the sink needs besides the rows. Without a `claim` nobody is asked whether the output is still ours."""

    output: OutputFiles
    layout: OutputLayout
    fingerprint: str
    total_parts: int
    tokenizer_dir: str
    prefix: str
    gold_column: str | None
    claim: LeaseToken | None = None


class WriteStep:
    """The last step of the graph: a part's table in, one row about what was written out."""

    def __init__(self, plan: WriteConfig) -> None:
        self.plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        collect_rarely()
        part = table.column(schema.PART)[0].as_py()
        if schema.ROW_ERROR not in table.column_names:
            return summary_row(part)
        plan, name = self.plan, part_name(part, self.plan.total_parts)
        done = assemble(table, plan.layout, cached_tokenizer(plan.tokenizer_dir))
        data = to_parquet(done, footer={"part": part, "rows": done.num_rows, "fingerprint": plan.fingerprint})
        receipt = make_receipt(part, done, data, prefix=plan.prefix, gold_column=plan.gold_column)
        text = json.dumps(asdict(receipt), ensure_ascii=False).encode()
        if plan.claim is not None:
            keep_trying(plan.claim.check)
        keep_trying(lambda: plan.output.storage.write(plan.output.receipt(name), text))
        keep_trying(lambda: plan.output.storage.write(plan.output.part(name), data))
        return summary_row(part, rows=receipt.rows, errors=receipt.errors, written=True)


def summary_row(part: int, *, rows: int = 0, errors: int = 0, written: bool = False) -> pa.Table:
    """What the driver is told of one part. `written` is False for a part that was left out."""
    return pa.table({"part": [part], "rows": [rows], "errors": [errors], "written": [written]})


def to_parquet(table: pa.Table, *, footer: dict[str, Any]) -> bytes:
    """The table as a zstd Parquet file with `footer` in its metadata; the same table makes the same bytes."""
    table = table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def make_receipt(part: int, table: pa.Table, data: bytes, *, prefix: str, gold_column: str | None) -> Receipt:
    """Count what is in a part's output table, and fingerprint its file's bytes."""
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
        error_kinds=dict(sorted(kinds.most_common(20))),
        labels=_count_labels(table, prefix) if is_classify else {},
        confusion=_confusion(table, prefix, gold_column) if is_classify and gold_column else [],
        confidence_sum=float(_sum(table, prefix + schema.CONFIDENCE)) if is_classify else 0.0,
    )


def _sum(table: pa.Table, name: str) -> Any:
    return pc.sum(table.column(name)).as_py() or 0


def _good_labels(table: pa.Table, prefix: str) -> list[tuple[int, str]]:
    """(row, label) of the rows without an error; the label of one that abstained is empty."""
    errors = table.column(prefix + schema.ERROR).to_pylist()
    labels = table.column(prefix + schema.LABEL).to_pylist()
    return [(row, label or "") for row, (label, error) in enumerate(zip(labels, errors, strict=True)) if error is None]


def _count_labels(table: pa.Table, prefix: str) -> dict[str, int]:
    return dict(sorted(Counter(label for _, label in _good_labels(table, prefix)).items()))


def _confusion(table: pa.Table, prefix: str, gold_column: str) -> list[tuple[str, str, int]]:
    golds = values_of(table.column(gold_column))
    pairs = Counter((golds[row], label) for row, label in _good_labels(table, prefix) if isinstance(golds[row], str))
    return [(gold, label, count) for (gold, label), count in sorted(pairs.items())]
