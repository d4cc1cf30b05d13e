"""Turns token ids and log-likelihoods into the columns of an output table, in input order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.labels import decide


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLayout:
    """The columns of the output.

    `columns` is the schema of the input. `added` are the added fields with their prefix, in the
    order of `schema.py`. `labels` are those of classify, in the order of their scores; empty for
    generate.
    """

    columns: pa.Schema
    added: pa.Schema
    labels: tuple[str, ...]
    samples: int
    abstain_below: float

    @property
    def schema(self) -> pa.Schema:
        """The schema of every output file."""
        return pa.schema([*self.columns, *self.added])


def assemble(table: pa.Table, layout: OutputLayout, tokenizer: Tokenizer) -> pa.Table:
    """Build the output table of one part, without the columns that only the steps use."""
    # The order of the added columns is that of `layout.added`, which `schema.py` defines.
    added = _labels(table, layout) if layout.labels else _completions(table, layout, tokenizer)
    # The cast restores the types that `input/read.py` replaced for the transport through Ray.
    kept = table.select(layout.columns.names).cast(layout.columns)
    arrays = [*kept.columns, *(pa.array(column, field.type) for column, field in zip(added, layout.added, strict=True))]
    return pa.Table.from_arrays(arrays, schema=layout.schema).combine_chunks()


def _labels(table: pa.Table, layout: OutputLayout) -> list[Any]:
    errors = table.column(schema.ROW_ERROR).to_pylist()
    scores = table.column(schema.LABEL_LOGPROBS).to_pylist()
    good = [row for row, score in enumerate(scores) if score is not None]
    labels: list[str | None] = [None] * table.num_rows
    confidence: list[float | None] = [None] * table.num_rows
    probabilities: list[list[tuple[str, float]] | None] = [None] * table.num_rows
    if good:
        decided = decide(np.array([scores[row] for row in good]), abstain_below=layout.abstain_below)
        for index, row in enumerate(good):
            chosen = int(decided.chosen[index])
            labels[row] = layout.labels[chosen] if chosen >= 0 else None
            confidence[row] = float(decided.confidence[index])
            values = map(float, decided.probabilities[index])
            probabilities[row] = list(zip(layout.labels, values, strict=True))
    return [labels, confidence, probabilities, table.column(schema.NUM_PROMPT_IDS).to_pylist(), errors]


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
    failed = ["error"] * layout.samples
    reasons = [failed if row is None else row for row in table.column(schema.REASONS).to_pylist()]
    counts = [None if row is None else sum(map(len, row)) for row in ids]
    if layout.samples == 1:
        texts, reasons = _first(texts), _first(reasons)
    return [texts, reasons, table.column(schema.NUM_PROMPT_IDS).to_pylist(), counts, errors]


def _first(rows: Sequence[Sequence[Any] | None]) -> list[Any]:
    return [None if row is None else row[0] for row in rows]
