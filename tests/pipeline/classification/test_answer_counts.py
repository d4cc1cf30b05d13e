"""Counts of answers, against a slow version row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline import schema
from tirazh.pipeline.classification.answer_counts import columns_of_answers, count_answers
from tirazh.pipeline.classification.answers import AnswerLayout, answer_columns

LABELS = ("sport", "art", "none")
(COLUMNS,) = columns_of_answers({"none_label": "none", "gold_column": "gold"})
scores = st.none() | st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0]), min_size=3, max_size=3)
golds = st.sampled_from([None, "", *LABELS])


def answered(rows: list[Any], gold: list[Any], **layout: Any) -> pa.Table:
    table = pa.table(
        {
            schema.LABEL_LOGPROBS: pa.array(rows, pa.list_(pa.float64())),
            schema.ROW_ERROR: pa.array(["bad" if row is None else None for row in rows], pa.string()),
        }
    )
    columns = answer_columns(table, [AnswerLayout(labels=LABELS, none_label="none", **layout)])
    names = [field.name for field in schema.answer_fields()]
    return pa.table([pa.array(gold, pa.string()), *columns], names=["gold", *names, "error"])


@given(st.lists(st.tuples(scores, golds), min_size=1, max_size=8), st.sampled_from([None, 1, 2]))
def test_the_counts_are_those_of_a_slow_version(rows: list[tuple[Any, Any]], top: int | None) -> None:
    table = answered([row for row, _ in rows], [gold for _, gold in rows], threshold=0.5, top=top)
    found = count_answers(table, COLUMNS, [error is None for error in table.column("error").to_pylist()])
    labels: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    bins, none_rows = [0] * 20, 0
    for row in table.to_pylist():
        if row["error"] is not None:
            continue
        best = max(row["probabilities"], key=lambda entry: entry["probability"])["label"]
        labels[row["label"] or ""] += 1
        none_rows += best == "none"
        borders = [np.float32(border / 20) for border in range(1, 20)]
        bins[sum(row["confidence"] >= border for border in borders)] += 1
        if row["gold"] is not None:
            pairs[row["gold"], row["label"] or ("none" if best == "none" else "")] += 1
    assert found.labels == labels
    assert found.none_label == none_rows
    assert found.confidences == bins
    assert found.confusion == [(*pair, count) for pair, count in sorted(pairs.items())]


def test_probabilities_that_no_job_has_written_are_refused() -> None:
    table = answered([[0.0, 0.0, 0.0]] * 2, ["art"] * 2)
    entries = table.column("probabilities").to_pylist()
    cut = pa.array([entries[0], entries[1][:1]], table.schema.field("probabilities").type)
    table = table.set_column(table.column_names.index("probabilities"), "probabilities", cut)
    with pytest.raises(ValueError, match="its rows have lists of 1 and 3 probabilities"):
        count_answers(table, COLUMNS, [True, True])


def test_without_a_none_label_the_probabilities_are_not_read() -> None:
    table = answered([[0.0, -1.0, -2.0]], ["art"]).drop_columns(["probabilities"])
    plain = replace(COLUMNS, none_label=None)
    assert "probabilities" not in plain.counted
    assert count_answers(table, plain, [True]).labels == {"sport": 1}
