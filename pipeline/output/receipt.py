"""Receipts: the facts about a part file, computed from the bytes of that file and from nothing else.

A part is written first and its receipt after it. If a run ends between the two, the next run makes the
receipt from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tirazh.pipeline import schema
from tirazh.pipeline.classification.answer_counts import (
    CONFIDENCE_BINS,
    AnswerColumns,
    AnswerCounts,
    columns_of_answers,
    count_answers,
)
from tirazh.pipeline.schema import Kind

FOOTER_KEY = b"tirazh"
# The counts of a question without a name, among the others in a receipt; the last ones came with several questions.
_SINCE_QUESTIONS = ("confidences", "none_label")
_PLAIN = ("labels", "gold_column", "confusion", "confidence_sum", *_SINCE_QUESTIONS)
_REASONS = (schema.FINISH_REASON, schema.FINISH_REASONS)
# The columns of each kind that a receipt is made from, beside the errors.
_OWN_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "classify": (schema.PROMPT_TOKENS,),
    "generate": (schema.COMPLETION_TOKENS, schema.PROMPT_TOKENS),
    "score": (schema.BITS_PER_CHARACTER, schema.NUM_TOKENS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Facts about a part file.

    `plan_id` is the id of the plan that the file belongs to. `answers` has the counts of classify by the name of the
    question, "" in a job that asks one without a name. `finish_reasons` counts completions, and
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
    answers: dict[str, AnswerCounts] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    completion_lengths: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Parse a receipt. Raises ValueError, KeyError or TypeError for anything else."""
        try:
            values = json.loads(data)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        if not isinstance(values, dict):
            raise TypeError("it is no mapping")
        answers = {name: _counts_from(counts) for name, counts in values.pop("questions", {}).items()}
        plain = {name: values.pop(name) for name in _PLAIN if name in values}
        counts = _counts_from(plain)
        if counts.confidences is not None or counts.labels or counts.gold_column is not None:
            answers[""] = counts
        receipt = cls(**values, answers=answers)
        if not all(isinstance(number, int) for number in (receipt.rows, receipt.errors, receipt.file_bytes)):
            raise TypeError("its counts must be integers")
        return receipt

    def to_json(self) -> bytes:
        """Serialise the receipt; equal receipts give equal bytes.

        The counts of a question without a name stand beside the others, where they were before a job could ask more
        than one.
        """
        plain = asdict(self.answers.get("", AnswerCounts()))
        new = {name: plain.pop(name) for name in _SINCE_QUESTIONS}
        named = {name: asdict(counts) for name, counts in self.answers.items() if name}
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            values |= plain if name == "answers" else {name: value}
        values |= new if new["confidences"] is not None else {}
        return json.dumps(values | ({"questions": named} if named else {}), ensure_ascii=False).encode()

    @property
    def gold_columns(self) -> dict[str, str]:
        """The gold column of each question that has one."""
        return {name: counts.gold_column for name, counts in self.answers.items() if counts.gold_column is not None}

    def is_as_stored(self, data: bytes) -> bool:
        """Whether `data` is this receipt, as this version or an earlier one stores it."""
        earlier = {name: replace(counts, confidences=None) for name, counts in self.answers.items() if not name}
        return data in (self.to_json(), replace(self, answers=self.answers | earlier).to_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptSettings:
    """What a receipt depends on besides the bytes of the part: the kind of job and the names of columns.

    `answers` are the columns of each question of classify.
    """

    kind: Kind
    prefix: str = ""
    answers: tuple[AnswerColumns, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any], gold_columns: Mapping[str, str] | None = None) -> ReceiptSettings:
        """Those of a job, from the values of its spec or of its identity.

        `gold_columns` has the gold column of each question that has one; without it they are those in `settings`.
        """
        answers = columns_of_answers(settings) if settings["kind"] == "classify" else ()
        if gold_columns is not None:
            answers = tuple(replace(each, gold_column=gold_columns.get(each.question)) for each in answers)
        return cls(kind=settings["kind"], prefix=settings["prefix"], answers=answers)

    @property
    def gold_columns(self) -> dict[str, str]:
        """The gold column of each question that has one."""
        return {each.question: each.gold_column for each in self.answers if each.gold_column is not None}


def _counts_from(values: Mapping[str, Any]) -> AnswerCounts:
    counts = AnswerCounts(**{**values, "confusion": [tuple(cell) for cell in values["confusion"]]})
    if counts.confidences is not None and len(counts.confidences) != CONFIDENCE_BINS:
        raise ValueError(f"it counts confidences in {len(counts.confidences)} ranges")
    return counts


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
    errors = table.column(prefix + schema.ERROR)
    is_good = [error is None for error in errors.to_pylist()]
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
        answers={each.question: count_answers(table, each, is_good) for each in settings.answers},
        finish_reasons=_count_reasons(table, prefix) if kind == "generate" else {},
        completion_lengths=_count_lengths(table, prefix) if kind == "generate" else {},
    )


def receipt_columns(names: list[str], settings: ReceiptSettings) -> list[str]:
    """The columns of a part file that its receipt is made from."""
    kind = settings.kind
    reasons = [name for name in _REASONS if settings.prefix + name in names] if kind == "generate" else []
    columns = [settings.prefix + name for name in (*_OWN_COLUMNS[kind], *reasons, schema.ERROR)]
    answers = [name for each in settings.answers for name in each.counted]
    return list(dict.fromkeys([*answers, *columns]))


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
