"""Reads the answers of a finished output with their gold labels, in batches of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.errors import InputError, RequestError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.evaluation.predictions import Predictions, RowFigures, figures_of, join_figures
from tirazh.pipeline.gold.answers import StoredAnswers, codes_of, failed_rows, find_answers, read_answers
from tirazh.pipeline.gold.finished import FinishedOutput, open_finished
from tirazh.pipeline.gold.gold_file import GoldMatch, match, read_gold_file, text_column
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

T = TypeVar("T")
# A part is decoded in batches of so many rows, or fewer with many labels.
_BATCH_ROWS = 1 << 16
_BATCH_PROBABILITIES = 1 << 22
_THREADS = 2
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldSource:
    """Where gold labels come from: a `file` with a `key` column and a `label` column, or a `column` of the output.

    Without any of them it is the gold column that the job named. Raises RequestError for a combination that makes no
    sense.
    """

    file: str | None = None
    key: str | None = None
    label: str | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if self.file is not None and self.column is not None:
            raise RequestError("--gold and --gold-column are two sources of gold labels; give one of them")
        if self.file is not None and self.key is None:
            raise RequestError("--gold needs --key: the column that names a row, in the output and in the gold file")
        if self.file is None and self.label is not None:
            raise RequestError("--gold-label names a column of the gold file; give --gold too, or use --gold-column")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCounts:
    """What became of the `rows` of an output: `evaluated`, `errors`, `without_gold` or `unknown_gold`.

    `unknown_labels` are the most frequent gold labels that the job does not have, with their rows. The other counts
    are those of `GoldMatch`.
    """

    rows: int
    evaluated: int
    errors: int
    without_gold: int
    unknown_gold: int
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    repeated_gold_keys: int = 0
    gold_keys_without_row: int = 0
    repeated_row_keys: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledOutput:
    """An output whose rows have gold labels: `gold` is int64 [rows], -1 without one, in the order of the rows.

    `keys` are those of the rows, None if no key was named. `source` describes where the gold labels come from.
    """

    output: FinishedOutput
    columns: StoredAnswers
    gold: NDArray[np.int64]
    keys: pa.ChunkedArray[Any] | None
    counts: RowCounts
    source: Mapping[str, str]

    def figures(self) -> RowFigures:
        """The figures of all rows, about 50 bytes for each."""
        return join_figures(list(self._batches(figures_of)))

    def predictions(self) -> Predictions:
        """The predictions of all rows with their probabilities, 8 bytes for each label and row."""
        return self._joined(lambda found: found)

    def with_gold(self) -> Predictions:
        """The predictions of the rows that have a gold label. Parts without one are not read."""
        return self._joined(_only_gold, only_gold=True)

    def _joined(self, choose: Callable[[Predictions], Predictions], *, only_gold: bool = False) -> Predictions:
        parts = list(self._batches(choose, only_gold=only_gold))
        chances = [each.probabilities for each in parts if each.probabilities is not None]
        return Predictions(
            labels=self.columns.labels,
            gold=np.concatenate([each.gold for each in parts]),
            chosen=np.concatenate([each.chosen for each in parts]),
            confidence=np.concatenate([each.confidence for each in parts]),
            probabilities=np.concatenate(chances) if chances else None,
            winners=np.concatenate([each.winners for each in parts if each.winners is not None]),
        )

    def _batches(self, make: Callable[[Predictions], T], *, only_gold: bool = False) -> Iterator[T]:
        """What `make` returns for every batch, in the order of the rows; with `only_gold` without the parts, but the
        first, that have no gold label."""
        starts = np.cumsum([0, *(rows for _, rows in self.output.parts)])
        batch_rows = max(1, min(_BATCH_ROWS, _BATCH_PROBABILITIES // max(1, len(self.columns.labels))))

        def read(part: int) -> list[T]:
            found: list[T] = []
            start = int(starts[part])
            if only_gold and part and not (self.gold[start : int(starts[part + 1])] >= 0).any():
                return found
            for table in self.output.tables(part, self.columns.names, batch_rows=batch_rows):
                found.append(make(read_answers(table, self.columns, self.gold[start : start + table.num_rows])))
                start += table.num_rows
            return found

        yield from chain.from_iterable(_of_parts(self.output, read))


def _only_gold(found: Predictions) -> Predictions:
    rows = found.gold >= 0
    return replace(
        found,
        gold=found.gold[rows],
        chosen=found.chosen[rows],
        confidence=found.confidence[rows],
        probabilities=None if found.probabilities is None else found.probabilities[rows],
        winners=None if found.winners is None else found.winners[rows],
    )


def read_labelled(
    output: str, source: GoldSource, *, question: str | None = None, endpoint_url: str | None = None
) -> LabelledOutput:
    """Open a finished output and find the gold label of every row; its answers are read later.

    Raises OutputError for an output that is not finished or not one of classify, RequestError without gold labels,
    and InputError for columns and keys that cannot be used.
    """
    found = open_finished(output, Storage(endpoint_url))
    answers = find_answers(found.spec, found.columns, question)
    place = show_uri(found.files.directory)
    column = None if source.file is not None else source.column or _own_gold(found.spec, question)
    if source.file is None and column is None:
        raise RequestError(
            f"{place} has no gold labels: its job had no --gold-column; give --gold FILE --key COLUMN, or --gold-column"
        )
    for name, flag in ((column, "--gold-column"), (source.key, "--key")):
        if name is not None and name not in found.columns.names:
            hint = did_you_mean(name, found.columns.names) or f"; its columns are {', '.join(found.columns.names)}"
            raise InputError(f"{flag}: {place} has no column {name!r}{hint}")
    rows = _read_columns(found, [name for name in (column, source.key, answers.error) if name is not None])
    keys = rows.column(source.key) if source.key is not None else None
    if column is not None:
        matched = GoldMatch(labels=text_column(rows.column(column), f"{place} column {column!r}"))
    else:
        assert source.file is not None
        assert source.key is not None
        assert keys is not None
        gold_file = read_gold_file(source.file, found.files.storage, key=source.key, label=source.label or schema.LABEL)
        matched = match(gold_file, keys)
    gold, counts = _count(matched, answers, failed_rows(rows, answers))
    return LabelledOutput(
        output=found,
        columns=answers,
        gold=gold,
        keys=keys,
        counts=counts,
        source=_describe(source, column),
    )


def read_predictions(
    output: str,
    *,
    gold: str | None = None,
    key: str | None = None,
    gold_label: str | None = None,
    gold_column: str | None = None,
    question: str | None = None,
    endpoint_url: str | None = None,
) -> tuple[Predictions, RowCounts]:
    """Read the predictions of all rows of a finished output; see `GoldSource` and `read_labelled` for the arguments.

    A row without gold label, or with an error, has the gold label -1.
    """
    source = GoldSource(file=gold, key=key, label=gold_label, column=gold_column)
    found = read_labelled(output, source, question=question, endpoint_url=endpoint_url)
    return found.predictions(), found.counts


def _own_gold(spec: Mapping[str, Any], question: str | None) -> str | None:
    """The gold column that the job named, for a question the question's."""
    of_question = (spec.get("questions") or {}).get(question) or {}
    column = of_question.get("gold_column") or spec.get("gold_column")
    return str(column) if column is not None else None


def _describe(source: GoldSource, column: str | None) -> dict[str, str]:
    key = {"key": source.key} if source.key is not None else {}
    if column is not None:
        return {"column": column, **key}
    return {"file": show_uri(str(source.file)), "label_column": source.label or schema.LABEL, **key}


def _read_columns(found: FinishedOutput, names: Sequence[str]) -> pa.Table:
    chosen = list(dict.fromkeys(names))

    def read(part: int) -> list[pa.Table]:
        return list(found.tables(part, chosen, batch_rows=_BATCH_ROWS))

    tables = list(chain.from_iterable(_of_parts(found, read)))
    # Without metadata, which may differ between parts.
    empty = pa.schema([found.columns.field(name) for name in chosen]).remove_metadata().empty_table()
    return pa.concat_tables([empty, *(table.replace_schema_metadata(None) for table in tables)])


def _of_parts(found: FinishedOutput, read: Callable[[int], list[T]]) -> Iterator[list[T]]:
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(read, range(len(found.parts)))


def _count(
    matched: GoldMatch, answers: StoredAnswers, failed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], RowCounts]:
    """The gold labels as indices of the labels, int64 [N], -1 for rows that are not evaluated, and the counts."""
    codes = codes_of(matched.labels, answers.labels)
    unknown = (codes == -2) & ~failed
    names: Counter[str] = Counter()
    if unknown.any():
        names.update(map(str, matched.labels.filter(pa.array(unknown)).to_pylist()))
    gold = np.where((codes < 0) | failed, -1, codes)
    return gold, RowCounts(
        rows=len(gold),
        evaluated=int((gold >= 0).sum()),
        errors=int(failed.sum()),
        without_gold=int(((codes == -1) & ~failed).sum()),
        unknown_gold=int(unknown.sum()),
        unknown_labels=dict(names.most_common(_NAMED)),
        repeated_gold_keys=matched.repeated_gold_keys,
        gold_keys_without_row=matched.gold_keys_without_row,
        repeated_row_keys=matched.repeated_row_keys,
    )
