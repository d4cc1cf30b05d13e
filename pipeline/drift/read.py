"""Reads the counts of a finished output, and which label each of its rows has, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tirazh.pipeline import schema
from tirazh.pipeline.drift.counts import (
    BITS_BINS,
    MOST_BITS,
    NOTHING,
    AnswerCounts,
    Moments,
    OutputCounts,
    count_confidences,
    moments_of,
    pooled,
)
from tirazh.pipeline.drift.row_ids import ids_of
from tirazh.pipeline.gold.answers import find_answers
from tirazh.pipeline.gold.finished import FinishedOutput

_BATCH_ROWS = 1 << 16
_THREADS = 2
_CLASSIFY, _GENERATE = "classify", "generate"
# The numbers of a row without a label: it abstained, or it has an error.
ABSTAINED, FAILED = 0, -1


class LabelNumbers:
    """Numbers of labels from 1, shared by the outputs of a comparison; 0 is a row that abstained, -1 one with an
    error."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, label: str) -> int:
        """The number of a label, a new one for a new label."""
        return self._numbers.setdefault(label, len(self._numbers) + 1)

    def name(self, number: int) -> str | None:
        """The label of a number; None for rows that abstained."""
        return list(self._numbers)[number - 1] if number > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputRows:
    """The rows of an output in their order: `ids` are uint64 [N], 0 for a row without one, `labels` int32 [N] the
    numbers of the labels of each question."""

    ids: NDArray[np.uint64]
    labels: dict[str, NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a job: its `name`, "" without one, the names of its `labels`, and the columns of its answers and
    gold labels; None where the output has no such column."""

    name: str
    labels: tuple[str, ...]
    label: str
    confidence: str | None = None
    abstained: str | None = None
    gold: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that there are."""
        return [name for name in (self.label, self.confidence, self.abstained, self.gold) if name is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputColumns:
    """The columns of an output that a comparison reads; None where there is no such column."""

    questions: tuple[Question, ...] = ()
    error: str | None = None
    tokens: str | None = None
    completion_tokens: str | None = None
    reasons: str | None = None
    bits: str | None = None
    identity: tuple[str, ...] = field(default=())

    @property
    def names(self) -> list[str]:
        """All of them, once each."""
        answers = [name for each in self.questions for name in each.columns]
        more = [self.error, self.tokens, self.completion_tokens, self.reasons, self.bits, *self.identity]
        return list(dict.fromkeys(name for name in [*answers, *more] if name is not None))


def settings_of(manifest: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """The settings of a job of this kind, or of the only such step of a job of several steps; None without."""
    if manifest["kind"] == kind:
        return dict(manifest["spec"])
    steps = [step for step in manifest["spec"].get("steps") or [] if step.get("kind") == kind]
    return dict(steps[0]) if len(steps) == 1 else None


def columns_of(found: FinishedOutput, identity: Sequence[str] = ()) -> OutputColumns:
    """Find the columns of an output. `identity` are those that tell one row from another."""
    classify, generate = settings_of(found.manifest, _CLASSIFY), settings_of(found.manifest, _GENERATE)
    settings = classify or generate or found.spec
    prefix = settings.get("prefix") or ""
    texts = (generate or settings).get("prefix") or ""

    def known(name: str, before: str = prefix) -> str | None:
        return before + name if before + name in found.columns.names else None

    tokens = known(schema.PROMPT_TOKENS) or known(schema.PROMPT_TOKENS, texts) or known(schema.NUM_TOKENS)
    return OutputColumns(
        questions=_questions(found, classify) if classify is not None and found.parts else (),
        error=known(schema.ERROR),
        tokens=tokens,
        completion_tokens=known(schema.COMPLETION_TOKENS, texts),
        reasons=known(schema.FINISH_REASON, texts) or known(schema.FINISH_REASONS, texts),
        bits=known(schema.BITS_PER_CHARACTER),
        identity=tuple(identity),
    )


def read_output(
    found: FinishedOutput, columns: OutputColumns, numbers: LabelNumbers
) -> tuple[OutputCounts, OutputRows]:
    """Read all rows of an output once: their counts, and about 12 bytes for each row.

    Raises InputError for a part that is damaged.
    """

    def read(part: int) -> list[tuple[OutputCounts, OutputRows]]:
        return [count_rows(table, columns, numbers) for table in _tables(found, part, columns.names)]

    with ThreadPoolExecutor(_THREADS) as threads:
        batches = [batch for part in threads.map(read, range(len(found.parts))) for batch in part]
    rows = [rows for _, rows in batches]
    return pooled(counts for counts, _ in batches), OutputRows(
        ids=np.concatenate([np.zeros(0, np.uint64), *(each.ids for each in rows)]),
        labels={
            question.name: np.concatenate([np.zeros(0, np.int32), *(each.labels[question.name] for each in rows)])
            for question in columns.questions
        },
    )


def _questions(found: FinishedOutput, settings: Mapping[str, Any]) -> tuple[Question, ...]:
    asked: Mapping[str, Any] = settings.get("questions") or {"": settings}
    names = found.columns.names

    def question(name: str, values: Mapping[str, Any]) -> Question:
        found_answers, gold = find_answers(settings, found.columns, name or None), values.get("gold_column")
        return Question(
            name=name,
            labels=found_answers.labels,
            label=found_answers.label,
            confidence=found_answers.confidence,
            abstained=found_answers.abstained,
            gold=gold if gold in names else None,
        )

    return tuple(question(name, values) for name, values in asked.items())


def _tables(found: FinishedOutput, part: int, names: Sequence[str]) -> Iterator[pa.Table]:
    if names:
        yield from found.tables(part, names, batch_rows=_BATCH_ROWS)


def count_rows(table: pa.Table, columns: OutputColumns, numbers: LabelNumbers) -> tuple[OutputCounts, OutputRows]:
    """The counts of some rows with these columns, and their ids and labels."""
    failed = _valid(table.column(columns.error)) if columns.error else np.zeros(table.num_rows, np.bool_)
    answers, labels = {}, {}
    for question in columns.questions:
        labels[question.name] = _label_numbers(table, question, failed, numbers)
        answers[question.name] = _count_answers(table, question, labels[question.name], numbers)
    bits = _numbers(table, columns.bits, ~failed)
    bits = bits[np.isfinite(bits)]
    bins = np.clip((bits / MOST_BITS * BITS_BINS).astype(np.int64), 0, BITS_BINS - 1)
    counts = OutputCounts(
        rows=table.num_rows,
        errors=int(failed.sum()),
        answers=answers,
        lengths=_count_integers(_numbers(table, columns.tokens, ~failed)),
        completions=_count_integers(_numbers(table, columns.completion_tokens, ~failed)),
        bits=np.bincount(bins, minlength=BITS_BINS if len(bits) else 0).astype(np.int64),
        bits_moments=Moments(rows=len(bits), sum=float(bits.sum())),
        reasons=_count_reasons(table, columns.reasons),
    )
    ids = ids_of(table.select(columns.identity)) if columns.identity else np.zeros(table.num_rows, np.uint64)
    return counts, OutputRows(ids=ids, labels=labels)


def _label_numbers(
    table: pa.Table, question: Question, failed: NDArray[np.bool_], numbers: LabelNumbers
) -> NDArray[np.int32]:
    """The number of the label of each row, int32 [N]."""
    encoded: Any = table.column(question.label).cast(pa.large_string()).combine_chunks().dictionary_encode()
    of_codes = np.array([*(numbers.of(str(label)) for label in encoded.dictionary.to_pylist()), ABSTAINED], np.int32)
    codes = encoded.indices.cast(pa.int64()).fill_null(len(of_codes) - 1).to_numpy(zero_copy_only=False)
    found: NDArray[np.int32] = of_codes[codes]
    if question.abstained is not None:
        column: Any = table.column(question.abstained)
        given = column.fill_null(False)
        found[given.to_numpy().astype(np.bool_)] = ABSTAINED
    found[failed] = FAILED
    return found


def _count_answers(
    table: pa.Table, question: Question, labels: NDArray[np.int32], numbers: LabelNumbers
) -> AnswerCounts:
    confidence = _numbers(table, question.confidence, None)
    if not len(confidence):
        confidence = np.full(len(labels), np.nan)
    good = labels != FAILED
    present, counts = np.unique(labels[labels > 0], return_counts=True)
    names = [str(numbers.name(int(number))) for number in present]
    gold_answers, gold_right = _against_gold(table, question, labels, confidence, numbers)
    return AnswerCounts(
        labels=Counter(dict(zip(names, counts.tolist(), strict=True))),
        by_label={name: moments_of(confidence[labels == number]) for name, number in zip(names, present, strict=True)},
        abstained=int((labels == ABSTAINED).sum()),
        confidence=moments_of(confidence[good]),
        histogram=count_confidences(confidence[good]),
        gold_answers=gold_answers,
        gold_right=gold_right,
    )


def _against_gold(
    table: pa.Table,
    question: Question,
    labels: NDArray[np.int32],
    confidence: NDArray[np.float64],
    numbers: LabelNumbers,
) -> tuple[Moments, int]:
    """The confidences of the answered rows with a gold label, and how many of them are right."""
    if question.gold is None:
        return NOTHING, 0
    encoded: Any = table.column(question.gold).cast(pa.large_string()).combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    of_codes = np.array([*(numbers.of(str(name)) if name else 0 for name in names), 0], np.int32)
    gold = of_codes[encoded.indices.cast(pa.int64()).fill_null(len(names)).to_numpy(zero_copy_only=False)]
    known = (gold > 0) & (labels > 0) & np.isfinite(confidence)
    return moments_of(confidence[known]), int((gold[known] == labels[known]).sum())


def _numbers(table: pa.Table, name: str | None, wanted: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """The numbers in a column as float64, NaN for null, of the `wanted` rows; empty without the column."""
    if name is None:
        return np.zeros(0)
    column: Any = table.column(name).cast(pa.float64())
    values: NDArray[np.float64] = column.fill_null(np.nan).to_numpy()
    return values if wanted is None else values[wanted]


def _count_integers(values: NDArray[np.float64]) -> NDArray[np.int64]:
    known = values[np.isfinite(values)].astype(np.int64)
    return np.bincount(known[known >= 0]).astype(np.int64) if len(known) else np.zeros(0, np.int64)


def _count_reasons(table: pa.Table, name: str | None) -> Counter[str]:
    if name is None:
        return Counter()
    column: Any = table.column(name).combine_chunks()
    values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    counted = [(each["values"], each["counts"]) for each in pc.value_counts(values.cast(pa.string())).to_pylist()]
    return Counter({str(value): int(count) for value, count in counted if value is not None})


def _valid(column: pa.ChunkedArray[Any]) -> NDArray[np.bool_]:
    values: Any = column.is_valid()
    array: NDArray[np.bool_] = values.to_numpy().astype(np.bool_)
    return array
