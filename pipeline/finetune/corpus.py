"""Rows become documents, and documents sequences on disk: what a training reads. Called by `finetune/run.py`.

Tokens are made as `classify` and `generate` make them: the prompt alone, then what follows it, so that what is taught
is what will be asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from tirazh.pipeline.finetune.packing import PACKERS
from tirazh.pipeline.input.texts import BrokenText, values_of
from tirazh.pipeline.prompts.encode import PromptWriter
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_BATCH_ROWS = 4_096
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids and the role of each."""

    tokens: Sequence[int]
    roles: Sequence[int]


class DocumentMaker(Protocol):
    """Makes a document of every row, or says what is wrong with it."""

    @property
    def columns(self) -> Sequence[str]: ...

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]: ...


@dataclass(frozen=True, slots=True)
class TextMaker:
    """A text and the token that ends it, all of it taught."""

    tokenizer: Tokenizer
    column: str

    @property
    def columns(self) -> Sequence[str]:
        return (self.column,)

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        texts = [_text(row, self.column) for row in rows]
        encoded = iter(self.tokenizer.encode_many([text for text in texts if isinstance(text, str)]))
        return [text if isinstance(text, RowError) else _taught(next(encoded), self.tokenizer) for text in texts]


@dataclass(frozen=True, slots=True)
class PairMaker:
    """A prompt that is read and a completion that is taught. A row without any of its prompt's columns is a text of its
    own; with `labels`, completions are labels, and their words are taught as `classify` scores them."""

    writer: PromptWriter
    tokenizer: Tokenizer
    completion_column: str
    labels: Mapping[str, str] | None

    @property
    def columns(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self.writer.config.columns.values(), self.completion_column)))

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        return [self._make(row) for row in rows]

    def _make(self, row: Row) -> Document | RowError:
        try:
            text = _text(row, self.completion_column)
            if isinstance(text, RowError):
                return text
            variables = {name: row[column] for name, column in self.writer.config.columns.items()}
            if all(value is None for value in variables.values()):
                return _taught(self.tokenizer.encode(text), self.tokenizer)
            completion = [*self.tokenizer.encode(self._words(text)), self.tokenizer.end_token_id]
            prompt = encode_prompt(self.writer, variables, room=len(completion))
        except RowError as error:
            return error
        if len(prompt) + len(completion) > self.writer.config.seq_length:
            return RowError(
                f"prompt and completion have {len(prompt)} + {len(completion)} tokens, and "
                f"{self.writer.config.seq_length} fit"
            )
        roles = [ROLE_PROMPT] * len(prompt) + [ROLE_COMPLETION] * len(completion)
        return Document([*prompt, *completion], roles)

    def _words(self, text: str) -> str:
        if self.labels is None:
            return text
        if text not in self.labels:
            raise RowError(f"{text!r} is none of the labels {', '.join(self.labels)}")
        return label_words(self.labels[text])


@dataclass(slots=True)
class LabelledPromptMaker:
    """Prompts alone; `gold` collects the place of each one's right label."""

    writer: PromptWriter
    label_column: str
    labels: Sequence[str]
    gold: list[int] = field(default_factory=list)

    @property
    def columns(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self.writer.config.columns.values(), self.label_column)))

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        return [self._make(row) for row in rows]

    def _make(self, row: Row) -> Document | RowError:
        label = row[self.label_column]
        if label not in self.labels:
            return RowError(f"{label!r} is none of the labels {', '.join(self.labels)}")
        try:
            variables = {name: row[column] for name, column in self.writer.config.columns.items()}
            prompt = encode_prompt(self.writer, variables, room=self.writer.config.reserved_tokens)
        except RowError as error:
            return error
        self.gold.append(self.labels.index(label))
        return Document(prompt, [ROLE_PROMPT] * len(prompt))


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """How a corpus is laid out: `packing` is stream, whole or single; `seed` None keeps the documents' order."""

    packing: str
    seq_length: int
    limit: int | None
    seed: int | None
    max_error_rate: float


def label_words(words: str) -> str:
    """A label's words as they continue a prompt: after one space."""
    return " " + words.strip()


def encode_prompt(writer: PromptWriter, variables: Row, *, room: int) -> list[int]:
    """Tokens of one row's prompt, cut so that `room` tokens stay free behind it. Raises RowError."""
    row, rendered = writer.prepare(variables)
    return writer.fit(row, writer.encode([rendered])[0], room)


def write_corpus(
    folder: Path, files: Sequence[StoredFile], storage: Storage, maker: DocumentMaker, plan: CorpusConfig
) -> dict[str, int]:
    """Write the sequences of `files` to the new directory `folder`. Returns the counts of rows, skipped ones,
    documents, tokens and sequences. Raises InputError when too many rows cannot be used, or none can."""
    rows = skipped = 0
    first_reason = ""
    with StoreWriter(folder) as writer:
        for file, batch in _read_batches(files, storage, maker.columns, plan.limit):
            for offset, made in enumerate(maker.make(batch)):
                if isinstance(made, RowError):
                    skipped += 1
                    first_reason = first_reason or f"row {rows + offset + 1} (in {show_uri(file.uri)}): {made}"
                else:
                    writer.add(made.tokens, made.roles)
            rows += len(batch)
        if skipped > plan.max_error_rate * rows or not writer.lengths:
            raise InputError(
                f"{skipped} of {rows} rows cannot be used, the first of them {first_reason}"
                if skipped
                else f"{show_uri(files[0].uri)} has no rows"
            )
        order = range(len(writer.lengths))
        if plan.seed is not None:
            shuffled = np.random.default_rng(plan.seed % (1 << 64)).permutation(len(writer.lengths))
            order = shuffled.tolist()
        sequences = PACKERS[plan.packing](writer.lengths, order, plan.seq_length)
        if not sequences:
            raise InputError(f"{show_uri(files[0].uri)} holds a single token: there is nothing to foretell")
        counts = {"rows": rows, "skipped": skipped}
        writer.finish(sequences, **counts, first_skipped=first_reason)
    return counts | {
        "documents": len(writer.lengths),
        "tokens": sum(writer.lengths),
        "sequences": len(sequences),
    }


def write_label_file(folder: Path, maker: LabelledPromptMaker, token_ids: Sequence[Sequence[int]]) -> None:
    """Put the labels beside the prompts that `maker` made."""
    ids = tuple(tuple(label) for label in token_ids)
    LabelFile(names=tuple(maker.labels), token_ids=ids, gold=tuple(maker.gold)).write(folder)


def _taught(ids: list[int], tokenizer: Tokenizer) -> Document:
    tokens = [*ids, tokenizer.end_token_id]
    return Document(tokens, [ROLE_TEXT] * len(tokens))


def _text(row: Row, column: str) -> str | RowError:
    value = row[column]
    if isinstance(value, BrokenText):
        return RowError(f"column {column!r} {value.reason}")
    if value is None or not str(value).strip():
        return RowError(f"column {column!r} is {'null' if value is None else 'empty'}")
    return str(value)


def _read_batches(
    files: Sequence[StoredFile], storage: Storage, columns: Sequence[str], limit: int | None
) -> Iterator[tuple[StoredFile, list[Row]]]:
    """The rows of the files in order, some thousands at a time, at most `limit` in all."""
    left = limit
    for file in files:
        with storage.open(file.uri) as opened:
            try:
                batches = pq.ParquetFile(opened).iter_batches(batch_size=_BATCH_ROWS, columns=list(columns))
                for batch in batches:
                    table = pa.Table.from_batches([batch if left is None else batch.slice(0, left)])
                    values = [values_of(table.column(name)) for name in columns]
                    yield file, [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
                    left = None if left is None else left - table.num_rows
                    if left == 0:
                        return
            except pa.ArrowException as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                raise InputError(f"{show_uri(file.uri)} is damaged: {reason}") from error
