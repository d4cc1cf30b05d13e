"""Which labelled rows are examples, search rows and held-out rows."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.tuning.sample import GoldRows, gold_rows, parse_gold, split_rows, take_rows

LABELS = ("sport", "world", "culture")


def table(count: int, weights: tuple[int, ...] = (5, 3, 2)) -> pa.Table:
    labels = [label for label, weight in zip(LABELS, weights, strict=True) for _ in range(weight)]
    return pa.table(
        {"text": [f"text {row}" for row in range(count)], "label": [labels[row % len(labels)] for row in range(count)]}
    )


def rows_of(source: pa.Table, **more: Any) -> GoldRows:
    given = {"columns": ["text"], "text_column": "text", "label_column": "label", "labels": LABELS}
    return gold_rows(source, **(given | more))


def texts(rows: GoldRows, numbers: np.ndarray[Any, Any]) -> set[str]:
    return set(rows.table.take(numbers).column("text").to_pylist())


def test_a_quarter_is_held_out_and_no_row_is_in_two_parts() -> None:
    rows = rows_of(table(1_000))
    split = split_rows(rows, seed=0, pool=True)
    assert (len(split.pool), len(split.held_out)) == (250, 250)
    assert len({*split.pool, *split.search, *split.held_out}) == 1_000


def test_a_hundred_rows_are_held_out_where_possible_and_half_at_most() -> None:
    assert len(split_rows(rows_of(table(240)), seed=0, pool=True).held_out) == 100
    assert len(split_rows(rows_of(table(80)), seed=0, pool=True).held_out) == 40


def test_without_shots_no_row_is_an_example() -> None:
    assert len(split_rows(rows_of(table(200)), seed=0, pool=False).pool) == 0


def test_the_split_does_not_depend_on_the_order_of_the_file() -> None:
    source = table(300)
    order = list(range(300))
    random.Random(1).shuffle(order)
    rows, other = rows_of(source), rows_of(source.take(order))
    split, shuffled = split_rows(rows, seed=3, pool=True), split_rows(other, seed=3, pool=True)
    assert rows.table.take(split.search).equals(other.table.take(shuffled.search))
    assert texts(rows, split.held_out) == texts(other, shuffled.held_out)
    assert texts(rows, split.held_out) != texts(rows, split_rows(rows, seed=4, pool=True).held_out)


@settings(max_examples=30)
@given(
    weights=st.tuples(*[st.integers(8, 60)] * 3), seed=st.integers(0, 99), cut=st.floats(0.05, 1), pool=st.booleans()
)
def test_every_part_has_every_label_in_its_share(
    weights: tuple[int, int, int], seed: int, cut: float, pool: bool
) -> None:
    rows = rows_of(table(sum(weights), weights))
    split = split_rows(rows, seed=seed, pool=pool)
    shares = np.array(weights) / sum(weights)
    for part in (split.search, split.held_out, *([split.pool] if pool else [])):
        counts = np.bincount(rows.gold[part], minlength=3)
        assert (counts >= 1).all()
        assert (abs(counts - shares * len(part)) <= 3).all()
    first = split.search[: max(1, int(cut * len(split.search)))]
    search = np.bincount(rows.gold[split.search], minlength=3) / len(split.search)
    assert (abs(np.bincount(rows.gold[first], minlength=3) - search * len(first)) <= 2.5).all()


def test_rows_that_cannot_be_used_are_counted_by_the_reason() -> None:
    source = pa.concat_tables(
        [
            table(100),
            pa.table(
                {"text": ["text 1", " ", None, "new", "known"], "label": ["sport", "sport", "sport", None, "sport"]}
            ),
        ]
    )
    rows = rows_of(source, known_texts={"known"})
    assert rows.removed == {"without_label": 1, "without_text": 2, "repeated": 1, "among_examples": 1}
    assert len(rows.gold) == 100


def test_at_most_the_asked_rows_are_taken_with_all_labels() -> None:
    rows = take_rows(rows_of(table(1_000)), 100, seed=0, labels=LABELS)
    assert np.bincount(rows.gold).tolist() == [50, 30, 20]
    with pytest.raises(InputError, match="'culture' has 4 among --rows 20; take more"):
        take_rows(rows_of(table(1_000)), 20, seed=0, labels=LABELS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label_column": "labels"}, "has no column 'labels' (--gold-label); did you mean label?"),
        ({"columns": ["title"], "text_column": "title"}, "no column 'title' (of the prompts)"),
        (
            {"labels": ("sport", "world", "cultura")},
            "'culture' is not one of the labels sport, world, cultura; did you",
        ),
        ({"labels": (*LABELS, "art")}, "needs at least 8 labelled rows with different texts, but 'art' has 0"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(table(100), **more)
    assert message in str(caught.value)


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(InputError, match=r"--gold gold.parquet is no Parquet"):
        parse_gold("gold.parquet", b"what")
    assert parse_gold("gold.csv", b"text,label\na,b\n").num_rows == 1
