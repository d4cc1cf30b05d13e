"""Receipts: the facts about a part file, computed from the bytes of that file and from nothing else.

A part is written first and its receipt after it. If a run ends between the two, the next run makes the
receipt from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tirazh.pipeline import schema
from tirazh.pipeline.input.texts import values_of
from tirazh.pipeline.schema import Kind

FOOTER_KEY = b"tirazh"
_REASONS = (schema.FINISH_REASON, schema.FINISH_REASONS)
# The columns of each kind that a receipt is made from, beside the errors.
_OWN_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "classify": (schema.LABEL, schema.CONFIDENCE, schema.PROMPT_TOKENS),
    "generate": (schema.COMPLETION_TOKENS, schema.PROMPT_TOKENS),
    "score": (schema.BITS_PER_CHARACTER, schema.NUM_TOKENS),
    "embed": (schema.PROMPT_TOKENS,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Facts about a part file.

    `plan_id` is the id of the plan that the file belongs to. `labels` counts the rows of every label; rows
    with a null label (abstained) are counted under "". `confusion` counts rows by (gold label, label) for
    `gold_column`; it is empty without --gold-column. `finish_reasons` counts completions, and
    `completion_lengths` rows by the tokens of their completions, in ranges such as "9-16".
    `input_version` is that of the input file whose rows the part was made from.
    """

    part: int
    plan_id: str
    input_version: str
    rows: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    file_bytes: int
    sha256: str
    error_kinds: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    gold_column: str | None = None
    confusion: list[tuple[str, str, int]] = field(default_factory=list)
    confidence_sum: float = 0.0
    finish_reasons: dict[str, int] = field(default_factory=dict)
    completion_lengths: dict[str, int] = field(default_factory=dict)

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

    def to_json(self) -> bytes:
        """Serialise the receipt; equal receipts give equal bytes."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptSettings:
    """What a receipt depends on besides the bytes of the part: the kind of job, and the names of two kinds of
    columns."""

    kind: Kind
    prefix: str
    gold_column: str | None


def read_footer(data: bytes) -> tuple[pq.FileMetaData, dict[str, Any]]:
    """Return the Parquet metadata of a part file, and what tirazh wrote in it: `part`, `rows`, `plan_id`
    and `input_version`.

    Raises ValueError, with the reason, for bytes that are not a part file.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(data))
        footer = json.loads((metadata.metadata or {})[FOOTER_KEY])
        return metadata, {name: footer[name] for name in ("part", "rows", "plan_id", "input_version")}
    except KeyError as error:
        raise ValueError("its footer was not written by this version of tirazh") from error
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its footer cannot be read ({type(error).__name__})") from error


def make_receipt(data: bytes, settings: ReceiptSettings) -> Receipt:
    """Make the receipt of a part from the bytes of its file.

    Raises ValueError, with the reason, for bytes that are not a complete part file.
    """
    metadata, footer = read_footer(data)
    wanted = receipt_columns(metadata.schema.to_arrow_schema().names, settings)
    try:
        return describe_part(pq.read_table(pa.BufferReader(data), columns=wanted), data, footer, settings)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"its rows cannot be read ({type(error).__name__})") from error


def describe_part(table: pa.Table, data: bytes, footer: dict[str, Any], settings: ReceiptSettings) -> Receipt:
    """Make the receipt of a part from its `receipt_columns` and the file that was made from it.

    It equals `make_receipt(data, settings)`, without decoding the file again. `footer` is what
    `read_footer` returns for the file.
    """
    prefix = settings.prefix
    kind = settings.kind
    is_classify = kind == "classify"
    gold = settings.gold_column if is_classify else None
    errors = table.column(prefix + schema.ERROR)
    kinds = Counter(error for error in errors.to_pylist() if error is not None)
    return Receipt(
        part=footer["part"],
        plan_id=footer["plan_id"],
        input_version=footer["input_version"],
        rows=table.num_rows,
        errors=table.num_rows - errors.null_count,
        prompt_tokens=_sum(table, prefix + (schema.NUM_TOKENS if kind == "score" else schema.PROMPT_TOKENS)),
        completion_tokens=_sum(table, prefix + schema.COMPLETION_TOKENS) if kind == "generate" else 0,
        file_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        # Messages may contain numbers of the row, so their count is bounded. They are sorted for
        # reproducible bytes.
        error_kinds=dict(sorted(kinds.most_common(20))),
        labels=_count_labels(table, prefix) if is_classify else {},
        gold_column=gold,
        confusion=_confusion(table, prefix, gold) if gold else [],
        confidence_sum=float(_sum(table, prefix + schema.CONFIDENCE)) if is_classify else 0.0,
        finish_reasons=_count_reasons(table, prefix) if kind == "generate" else {},
        completion_lengths=_count_lengths(table, prefix) if kind == "generate" else {},
    )


def receipt_columns(names: list[str], settings: ReceiptSettings) -> list[str]:
    """The columns of a part file that its receipt is made from."""
    kind = settings.kind
    reasons = [name for name in _REASONS if settings.prefix + name in names] if kind == "generate" else []
    columns = [settings.prefix + name for name in (*_OWN_COLUMNS[kind], *reasons, schema.ERROR)]
    return [settings.gold_column, *columns] if kind == "classify" and settings.gold_column else columns


def check_belongs(receipt: Receipt, *, part: int, rows: int, plan_id: str) -> None:
    """Raise ValueError, with the reason, unless `receipt` is that of this part of this plan."""
    if (receipt.plan_id, receipt.part) != (plan_id, part):
        raise ValueError(f"it contains the rows of another part (part {receipt.part})")
    if receipt.rows != rows:
        raise ValueError(f"it has {receipt.rows} rows instead of {rows}")


def _sum(table: pa.Table, name: str) -> Any:
    return pc.sum(table.column(name)).as_py() or 0


def _count_reasons(table: pa.Table, prefix: str) -> dict[str, int]:
    name = next(prefix + name for name in _REASONS if prefix + name in table.column_names)
    reasons: Any = table.column(name)
    if pa.types.is_list(reasons.type):
        reasons = pc.list_flatten(reasons)
    return dict(sorted(Counter(reason for reason in reasons.to_pylist() if reason is not None).items()))


def _count_lengths(table: pa.Table, prefix: str) -> dict[str, int]:
    """Count rows by the tokens of their completions; the upper ends of the ranges are powers of two."""
    tokens = [count for count in table.column(prefix + schema.COMPLETION_TOKENS).to_pylist() if count is not None]
    ranges = Counter(0 if count == 0 else max(1, (count - 1).bit_length()) for count in tokens)
    return {_length_range(power): ranges[power] for power in sorted(ranges)}


def _length_range(power: int) -> str:
    return "0" if power == 0 else "1-2" if power == 1 else f"{2 ** (power - 1) + 1}-{2**power}"


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
