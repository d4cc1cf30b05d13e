"""Builds the training data: rows become documents, and documents become sequences on disk.

Prompts are encoded as `classify` and `generate` encode them: the prompt by itself, then the
completion, as it continues the prompt. So the model is trained on the tokens that it will see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, RowError
from tirazh.model.tokenizer import Tokenizer
from tirazh.model.training.config import ROLE_COMPLETION, ROLE_PROMPT, ROLE_TEXT
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.sequence_store import StoreWriter
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.finetune.packing import PACKERS, Span
from tirazh.pipeline.finetune.row_account import DAMAGED, EMPTY, NULL, TOO_LONG, UNKNOWN_LABEL, RowAccount, UnusableRow
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.input.schemas.conform import conform
from tirazh.pipeline.prompts.encode import PromptWriter
from tirazh.pipeline.prompts.label_tokens import label_words
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_BATCH_ROWS = 4_096
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Files, their columns, the total number of their rows, and and sentences about what was unified or not read."""

    files: tuple[StoredFile, ...]
    columns: pa.Schema
    rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WeightedInput:
    """One --input with its --input-weights: the name that was given, the weight of its share, and its files."""

    name: str
    weight: float
    inputs: InputFiles


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids and the role of each token (see `model/training/config.py`). The text has lost `cut` tokens."""

    tokens: Sequence[int]
    roles: Sequence[int]
    cut: int = 0


class DocumentMaker(Protocol):
    """Makes a document from every row, or a RowError that says why the row cannot be used.

    `is_strict`: a text that is too long is such a row; otherwise it is cut.
    """

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def is_strict(self) -> bool: ...

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]: ...


@dataclass(frozen=True, slots=True)
class OneColumnMaker:
    """What makers of documents of one column have in common."""

    tokenizer: Tokenizer
    column: str

    @property
    def columns(self) -> Sequence[str]:
        return (self.column,)

    @property
    def is_strict(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class TextMaker(OneColumnMaker):
    """Documents of plain text: all tokens and the end token are trained on."""

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        texts = [_text(row, self.column) for row in rows]
        encoded = iter(self.tokenizer.encode_many([text for text in texts if isinstance(text, str)]))
        return [text if isinstance(text, RowError) else _text_document(next(encoded), self.tokenizer) for text in texts]


@dataclass(frozen=True, slots=True)
class PairMaker:
    """Documents of a prompt and a completion; the loss is computed on the completion.

    A row whose prompt columns are all null is plain text. With `labels` the completions are labels,
    and the model is trained on their words as `classify` scores them.
    """

    writer: PromptWriter
    tokenizer: Tokenizer
    completion_column: str
    labels: Mapping[str, str] | None

    @property
    def columns(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self.writer.config.columns.values(), self.completion_column)))

    @property
    def is_strict(self) -> bool:
        return self.writer.config.truncate == "error"

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        return [self._make(row) for row in rows]

    def _make(self, row: Row) -> Document | RowError:
        try:
            text = _text(row, self.completion_column)
            if isinstance(text, RowError):
                return text
            variables = {name: row[column] for name, column in self.writer.config.columns.items()}
            if all(value is None for value in variables.values()):
                return _text_document(self.tokenizer.encode(text), self.tokenizer)
            writer = self.writer.for_row(variables)
            row, rendered = writer.prepare(variables)
            completion = [*writer.encode_completion(rendered, self._words(text)), self.tokenizer.end_token_id]
            whole = writer.encode([rendered])[0]
            prompt = writer.fit(row, whole, len(completion))
            cut = len(whole) - len(prompt) + _cut_before(writer, variables, row)
        except RowError as error:
            return error
        if len(prompt) + len(completion) > self.writer.config.seq_length:
            return RowError(
                f"prompt and completion have {len(prompt)} + {len(completion)} tokens, and "
                f"{self.writer.config.seq_length} fit"
            )
        roles = [ROLE_PROMPT] * len(prompt) + [ROLE_COMPLETION] * len(completion)
        return Document([*prompt, *completion], roles, cut)

    def _words(self, text: str) -> str:
        if self.labels is None:
            return text
        if text not in self.labels:
            raise _unknown(text, self.labels)
        return label_words(self.labels[text])


@dataclass(slots=True)
class LabelledPromptMaker:
    """Documents of prompts alone; `gold` collects the index of each prompt's gold label."""

    writer: PromptWriter
    label_column: str
    labels: Sequence[str]
    gold: list[int] = field(default_factory=list)

    @property
    def columns(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self.writer.config.columns.values(), self.label_column)))

    @property
    def is_strict(self) -> bool:
        return self.writer.config.truncate == "error"

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        return [self._make(row) for row in rows]

    def _make(self, row: Row) -> Document | RowError:
        label = row[self.label_column]
        if label is None:
            return _text_error(self.label_column, None)
        if label not in self.labels:
            return _unknown(label, self.labels)
        try:
            variables = {name: row[column] for name, column in self.writer.config.columns.items()}
            writer = self.writer.for_row(variables)
            bounded, rendered = writer.prepare(variables)
            whole = writer.encode([rendered])[0]
            prompt = writer.fit(bounded, whole, writer.config.reserved_tokens)
            cut = len(whole) - len(prompt) + _cut_before(writer, variables, bounded)
        except RowError as error:
            return error
        self.gold.append(self.labels.index(label))
        return Document(prompt, [ROLE_PROMPT] * len(prompt), cut)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """How documents are packed: `packing` is stream, whole or single; `seed` None keeps the documents' order.

    The documents of each of the `sources` are packed alone, and training mixes their sequences; they hold all files.
    """

    packing: str
    seq_length: int
    limit: int | None
    seed: int | None
    max_error_rate: float
    sources: tuple[WeightedInput, ...] = ()


def write_corpus(
    folder: Path, inputs: InputFiles, storage: Storage, maker: DocumentMaker, config: CorpusConfig
) -> dict[str, Any]:
    """Write the sequences of `inputs` to the new directory `folder`.

    Returns the counts of rows, skipped rows by reason, cut texts, documents, tokens and sequences, and `sources` with
    those of each source. Raises InputError when no row, or too few rows, can be used.
    """
    account = RowAccount()
    parts = [each.inputs for each in config.sources] or [inputs]
    stops, rows = [], []
    with StoreWriter(folder) as writer:
        for part in parts:
            before = account.rows
            for file, batch in read_batches(part, storage, maker.columns, config.limit):
                for document in accounted(maker.make(batch), account, place=show_uri(file.uri)):
                    writer.add(document.tokens, document.roles)
            stops.append(len(writer.lengths))
            rows.append(account.rows - before)
        # The store has no `store.json` yet, so a refused one is never read.
        if account.skipped > config.max_error_rate * account.rows or not writer.lengths:
            raise InputError(
                _too_many_skipped(account, maker, config)
                if account.skipped
                else f"{show_uri(inputs.files[0].uri)} has no rows"
            )
        sequences: list[list[Span]] = []
        sources: list[dict[str, Any]] = []
        for number, (start, stop) in enumerate(pairwise([0, *stops])):
            packed = PACKERS[config.packing](writer.lengths, _order(start, stop, config.seed), config.seq_length)
            if not packed:
                raise InputError(_nothing_to_predict(parts[number], stop - start))
            sequences += packed
            if config.sources:
                own = config.sources[number]
                sources.append({"input": show_uri(own.name), "weight": own.weight, "rows": rows[number],
                                "documents": stop - start, "tokens": sum(writer.lengths[start:stop]),
                                "sequences": len(packed)})  # fmt: skip
        counts = account.facts() | ({"sources": sources} if sources else {})
        writer.finish(sequences, packed=config.packing == "whole", **counts)
    return counts | {
        "documents": len(writer.lengths),
        "tokens": sum(writer.lengths),
        "sequences": len(sequences),
    }


def _order(start: int, stop: int, seed: int | None) -> Sequence[int]:
    """The documents from `start` to `stop`, shuffled before packing unless the seed is None.

    So a file sorted by label does not pack equal labels together.
    """
    if seed is None:
        return range(start, stop)
    shuffled: list[int] = (start + np.random.default_rng(seed % (1 << 64)).permutation(stop - start)).tolist()
    return shuffled


def _nothing_to_predict(inputs: InputFiles, documents: int) -> str:
    file = show_uri(inputs.files[0].uri)
    if not documents:
        return f"{file} has no rows that can be used, so it can have no share of the training"
    return f"{file} holds a single token, so there is nothing to predict; give more text"


def accounted(made: Sequence[Document | RowError], account: RowAccount, *, place: str) -> Iterator[Document]:
    """Yield the documents among the results of a maker; `account` gets the rows, in the order of the file `place`."""
    for each in made:
        account.rows += 1
        if isinstance(each, RowError):
            account.skip(each, row=account.rows, place=place)
        else:
            account.cut(each.cut)
            yield each


def _too_many_skipped(account: RowAccount, maker: DocumentMaker, config: CorpusConfig) -> str:
    """The sentence about rows that cannot be used, with the settings that would help."""
    share = account.skipped / account.rows
    hints = []
    if TOO_LONG in account.by_reason and maker.is_strict:
        hints.append("--truncate right cuts texts that are too long")
    if account.skipped < account.rows:
        most = math.ceil(share * 1_000) / 1_000
        hints.append(f"--max-error-rate {most:g} goes on without these rows")
    more = f"; {', and '.join(hints)}" if hints else ""
    return f"{account.skipped} of {account.rows} rows cannot be used, the first of them {account.first}{more}"


def write_label_file(
    folder: Path, maker: LabelledPromptMaker, token_ids: Sequence[Sequence[int]], ends: Sequence[int] = ()
) -> None:
    """Write the labels beside the prompts that `maker` made; `ends` are the tokens that end a label."""
    ids = tuple(tuple(label) for label in token_ids)
    LabelFile(names=tuple(maker.labels), token_ids=ids, gold=tuple(maker.gold), ends=tuple(ends)).write(folder)


def _text_document(ids: list[int], tokenizer: Tokenizer) -> Document:
    tokens = [*ids, tokenizer.end_token_id]
    return Document(tokens, [ROLE_TEXT] * len(tokens))


def _text(row: Row, column: str) -> str | RowError:
    value = row[column]
    if isinstance(value, BrokenText):
        return UnusableRow(f"column {column!r} {value.reason}", DAMAGED)
    if value is None or not str(value).strip():
        return _text_error(column, value)
    return str(value)


def _text_error(column: str, value: Any) -> RowError:
    """The error of a row without a text: `value` is None, or has no letters."""
    kind = NULL if value is None else EMPTY
    return UnusableRow(f"column {column!r} is {kind}", kind)


def _unknown(label: Any, labels: Iterable[str]) -> RowError:
    return UnusableRow(f"{label!r} is none of the labels {', '.join(labels)}", UNKNOWN_LABEL)


def _cut_before(writer: PromptWriter, given: Row, bounded: Row) -> int:
    """The tokens of what `PromptWriter.prepare` has cut off very long texts before they were encoded."""
    lost = 0
    for name, value in given.items():
        kept = bounded.get(name)
        if isinstance(value, str) and isinstance(kept, str) and len(kept) < len(value):
            rest = value[len(kept) :] if value.startswith(kept) else value[: -len(kept)]
            lost += len(writer.encode_completion("", rest))
    return lost


def read_batches(
    inputs: InputFiles, storage: Storage, columns: Sequence[str], limit: int | None
) -> Iterator[tuple[StoredFile, list[Row]]]:
    """Yield the rows of the files in order, up to `_BATCH_ROWS` at a time and at most `limit` in total."""
    left = limit
    wanted = pa.schema([inputs.columns.field(name) for name in columns])
    for file in inputs.files:
        first = 0
        with storage.open(file.uri) as opened:
            try:
                parquet = pq.ParquetFile(opened, **READ_OPTIONS)
                # Columns of directories, and of other files, are not in this one.
                stored = [name for name in columns if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=stored):
                    table = pa.Table.from_batches([batch if left is None else batch.slice(0, left)])
                    table = conform(table, wanted, file, first)
                    first += table.num_rows
                    values = [values_of(table.column(name)) for name in columns]
                    yield file, [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
                    left = None if left is None else left - table.num_rows
                    if left == 0:
                        return
            except pa.ArrowException as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                raise InputError(f"{show_uri(file.uri)} is damaged: {reason}") from error
