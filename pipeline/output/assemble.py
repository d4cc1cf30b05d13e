"""Turns token ids and log-likelihoods into the columns of an output table, in input order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classification.answers import AnswerLayout, answer_columns
from tirazh.pipeline.constraints.fields import SchemaField, fill_fields
from tirazh.pipeline.file_metadata import adapt_metadata
from tirazh.pipeline.input.overrides import sample_seed
from tirazh.pipeline.input.schemas.arrow_types import restore, with_metadata
from tirazh.pipeline.input.schemas.planned_schema import public_metadata
from tirazh.pipeline.output.rows.sample_rows import sample_rows

_TEXTS, _ERRORS = -6, -1  # the places of these columns of generate, before those of a schema


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLayout:
    """The columns of the output.

    `columns` is the schema of the input. `added` are the added fields with their prefix, in the
    order of `schema.py`. `answers` are those to the questions of classify, in the order of their scores; empty for
    generate and score. A row of the input has `samples` results, which are one row of the output or, if
    `rows_per_input_row` is not 1, as many rows. `keep` are the names of the columns in `schema.KEEPABLE` that are
    written. `fields` are those of a JSON Schema that generate's completions follow.
    """

    columns: pa.Schema
    added: pa.Schema
    samples: int = 1
    answers: tuple[AnswerLayout, ...] = ()
    rows_per_input_row: int = 1
    keep: tuple[str, ...] = ()
    fields: tuple[SchemaField, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The schema of every output file, with its metadata."""
        metadata = adapt_metadata(public_metadata(self.columns), self.added)
        return with_metadata([*self.columns, *self.added], metadata)


def assemble_rows(table: pa.Table, layout: OutputLayout, tokenizer: Tokenizer) -> Iterator[pa.Table]:
    """Yield the output tables of one part, in order: a single one unless every sample is a row of its own."""
    if layout.rows_per_input_row == 1:
        yield assemble(table, layout, tokenizer)
        return
    for rows in sample_rows(table, layout.rows_per_input_row):
        yield assemble(rows, layout, tokenizer)


def assemble(table: pa.Table, layout: OutputLayout, tokenizer: Tokenizer) -> pa.Table:
    """Build the output table of rows that are output rows already, without the columns that only the steps use."""
    # The order of the added columns is that of `layout.added`, which `schema.py` defines.
    if schema.TEXT_LOGPROB in table.column_names:
        added = _text_scores(table)
    elif schema.HIDDEN_STATE in table.column_names:
        added = _embeddings(table)
    else:
        added = _answers(table, layout) if layout.answers else _completions(table, layout, tokenizer)
    if layout.fields:
        added[_ERRORS], fields = fill_fields(added[_TEXTS], added[_ERRORS], layout.fields)
        added += fields
    kept = restore(table, layout.columns).combine_chunks()
    arrays = [
        column if isinstance(column, pa.ChunkedArray | pa.Array) else pa.array(column, field.type)
        for column, field in zip(added, layout.added, strict=True)
    ]
    return pa.Table.from_arrays([*kept.columns, *arrays], schema=layout.schema)


def _answers(table: pa.Table, layout: OutputLayout) -> list[Any]:
    *answers, errors = answer_columns(table, layout.answers)
    return [*answers, table.column(schema.NUM_PROMPT_IDS), errors]


def _completions(table: pa.Table, layout: OutputLayout, tokenizer: Tokenizer) -> list[Any]:
    errors = table.column(schema.ROW_ERROR).to_pylist()
    ids = table.column(schema.COMPLETION_IDS).to_pylist()
    ends: list[Any] = table.column(schema.TEXT_ENDS).to_pylist()
    texts = [
        None
        if row_ids is None
        else [tokenizer.decode_completion(sample)[:end] for sample, end in zip(row_ids, row_ends, strict=True)]
        for row_ids, row_ends in zip(ids, ends, strict=True)
    ]
    has_lists = layout.samples > 1 and layout.rows_per_input_row == 1
    failed = ["error"] * (layout.samples if has_lists else 1)
    reasons = [failed if row is None else row for row in table.column(schema.REASONS).to_pylist()]
    counts = [None if row is None else sum(map(len, row)) for row in ids]
    logprobs: list[Any] = table.column(schema.COMPLETION_LOGPROBS).to_pylist()
    if not has_lists:
        texts, reasons, logprobs = _first(texts), _first(reasons), _first(logprobs)
    numbers = [table.column(schema.SAMPLE_NUMBER)] if schema.SAMPLE_NUMBER in table.column_names else []
    return [
        *numbers,
        *_kept(table, layout.keep),
        texts,
        reasons,
        table.column(schema.NUM_PROMPT_IDS).to_pylist(),
        counts,
        logprobs,
        errors,
    ]


def _kept(table: pa.Table, keep: Sequence[str]) -> list[Any]:
    """The columns of `schema.KEEPABLE` that are written, in its order."""
    columns: list[Any] = [table.column(schema.PROMPT_TEXT)] if schema.PROMPT in keep else []
    if schema.SEED in keep:
        seeds = table.column(schema.ROW_SEED).to_pylist()
        has_numbers = schema.SAMPLE_NUMBER in table.column_names
        samples: list[Any] = table.column(schema.SAMPLE_NUMBER).to_pylist() if has_numbers else [0] * len(seeds)
        pairs = zip(seeds, samples, strict=True)
        columns.append([None if seed is None else sample_seed(seed, sample) for seed, sample in pairs])
    return columns


def _text_scores(table: pa.Table) -> list[Any]:
    logprobs: list[Any] = table.column(schema.TEXT_LOGPROB).to_pylist()
    lengths: list[Any] = table.column(schema.NUM_CHARACTERS).to_pylist()
    bits = [
        None if logprob is None or not length else -logprob / math.log(2) / length
        for logprob, length in zip(logprobs, lengths, strict=True)
    ]
    errors = table.column(schema.ROW_ERROR).to_pylist()
    return [logprobs, table.column(schema.NUM_TEXT_IDS).to_pylist(), bits, errors]


def _embeddings(table: pa.Table) -> list[Any]:
    return [table.column(name) for name in (schema.HIDDEN_STATE, schema.NUM_PROMPT_IDS, schema.ROW_ERROR)]


def _first(rows: Sequence[Sequence[Any] | None]) -> list[Any]:
    return [None if row is None else row[0] for row in rows]
