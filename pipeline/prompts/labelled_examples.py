"""The labelled rows on which a head is fitted, checked before the job starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pyarrow as pa

from tirazh.errors import InputError, RequestError
from tirazh.pipeline import schema
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.prompts.examples_file import parse_examples
from tirazh.pipeline.storage.errors import show_uri

ENOUGH_EXAMPLES = 200
_FEWEST_OF_A_LABEL = 2


def parse_labelled(
    uri: str, data: bytes, *, columns: Collection[str], text_column: str, labels: Collection[str]
) -> pa.Table:
    """Return the table of the file `uri` and check it: each row has a text and one of the labels.

    Raises InputError, with the row, for one that has not, and RequestError for a label with fewer than two rows.
    """
    table = parse_examples(uri, data)
    for column in dict.fromkeys((*columns, schema.LABEL)):
        if column in (text_column, schema.LABEL) or column not in table.column_names:
            check_text_column(table.schema, column, flag=f"in --examples {show_uri(uri)}")
    texts, targets = values_of(table.column(text_column)), values_of(table.column(schema.LABEL))
    for number, (text, label) in enumerate(zip(texts, targets, strict=True), start=1):
        if isinstance(text, BrokenText):
            raise InputError(f"--examples, row {number}: column {text_column!r} {text.reason}")
        if text is None or not str(text).strip():
            reason = "null" if text is None else "empty"
            raise InputError(f"--examples, row {number}: column {text_column!r} is {reason}")
        if label not in labels:
            raise InputError(f"--examples, row {number}: {label!r} is not one of the labels {', '.join(labels)}")
    counts = Counter(targets)
    few = [label for label in labels if counts[label] < _FEWEST_OF_A_LABEL]
    if few:
        raise RequestError(
            f"--head linear: --examples has fewer than {_FEWEST_OF_A_LABEL} rows with the label {few[0]!r}; add some, "
            "or remove the label"
        )
    return table


def few_examples_note(table: pa.Table) -> str | None:
    """A sentence for a file with fewer rows than a head needs; None if there are enough."""
    if table.num_rows >= ENOUGH_EXAMPLES:
        return None
    return (
        f"--head linear: --examples has {table.num_rows} rows; below {ENOUGH_EXAMPLES} a head is often worse than "
        "few-shot classification without one"
    )
