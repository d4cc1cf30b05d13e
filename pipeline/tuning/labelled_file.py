"""Reads the labelled file of `tirazh tune`, and puts the file of few-shot examples together."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.pipeline import schema
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.prompts.examples_file import parse_examples
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.tuning.sample import GoldRows, Ints, Split, gold_rows, split_rows, take_rows
from tirazh.pipeline.tuning.settings import TuneSettings

_NUM_TEXTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFile:
    """The rows of a labelled file, how they are split, and the pool of few-shot examples, which may be empty.

    `rows_in_file` counts all rows of the file.
    """

    rows: GoldRows
    split: Split
    pool: pa.Table
    rows_in_file: int

    @property
    def used(self) -> Ints:
        """The rows that trials or the final figure may run."""
        return np.sort(np.concatenate([self.split.search, self.split.held_out]))

    def pool_bytes(self) -> bytes:
        """The pool as a Parquet file."""
        target = io.BytesIO()
        pq.write_table(self.pool, target)
        return target.getvalue()

    def counts(self) -> dict[str, Any]:
        """JSON values: what became of the rows."""
        return {
            "in_file": self.rows_in_file,
            "used": len(self.rows.gold),
            "examples": self.pool.num_rows,
            "search": len(self.split.search),
            "held_out": len(self.split.held_out),
            **self.rows.removed,
        }


def some_texts(table: pa.Table, column: str) -> list[str]:
    """Some texts of a column, by which the language is known; none if there is no such column."""
    if column not in table.column_names:
        return []
    return [text for text in values_of(table.column(column).slice(0, _NUM_TEXTS)) if isinstance(text, str)]


def split_file(
    table: pa.Table,
    spec: ClassifySpec,
    settings: TuneSettings,
    *,
    columns: Sequence[str],
    text_column: str,
    examples: bytes | None,
    shots: int,
) -> LabelledFile:
    """Split the rows of a labelled file.

    `columns` are those of all prompts, `examples` the content of the job's own file of examples, whose rows stay in the
    pool, `shots` the largest number of examples that is tried. Raises InputError for a file that cannot be used.
    """
    labels = tuple(spec.labels or {})
    own = None if spec.examples is None or examples is None else parse_examples(spec.examples, examples)
    rows = gold_rows(
        table,
        columns=columns,
        text_column=text_column,
        label_column=settings.gold_label or spec.gold_column or schema.LABEL,
        labels=labels,
        known_texts=_texts(own, text_column),
    )
    rows = take_rows(rows, settings.rows, seed=settings.seed, labels=labels)
    split = split_rows(rows, seed=settings.seed, pool=shots > 0)
    return LabelledFile(
        rows=rows, split=split, pool=_pool(rows, split, own, labels, list(columns)), rows_in_file=table.num_rows
    )


def _pool(rows: GoldRows, split: Split, own: pa.Table | None, labels: Sequence[str], columns: list[str]) -> pa.Table:
    """The job's own examples, if they have all columns, and those of the labelled file."""
    found = rows.table.take(split.pool)
    names = [labels[index] for index in rows.gold[split.pool]]
    columns = [name for name in columns if name != schema.LABEL]
    pool = found.select(columns).append_column(schema.LABEL, pa.array(names, pa.string()))
    if own is None or not len(split.pool) or not set(pool.column_names) <= set(own.column_names):
        return pool
    try:
        return pa.concat_tables([own.select(pool.column_names), pool], promote_options="permissive")
    except pa.ArrowException:  # columns of other types
        return pool


def _texts(table: pa.Table | None, column: str) -> set[str]:
    if table is None or column not in table.column_names:
        return set()
    values = values_of(table.column(column))
    return {str(value).strip() for value in values if value is not None and not isinstance(value, BrokenText)}
