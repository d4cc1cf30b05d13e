"""The rows of a crossing: cells counted exactly, the same rows in any range, and no row changed by new values."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError
from tirazh.pipeline.crossing import crossing as module
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.layouts import Draws, EveryCell, Layout
from tirazh.pipeline.crossing.value_list import make_list

LISTS = {"topic": ["sport", "science", "art"], "size": [10, 20], "heat": [0.5, 1]}


def crossing(layout: Layout, **changed: list[Any]) -> Crossing:
    return Crossing(tuple(make_list(name, values) for name, values in {**LISTS, **changed}.items()), layout)


def rows_of(made: Crossing, start: int = 0, stop: int | None = None) -> list[tuple[Any, ...]]:
    """Every row with its values and its repetition: what its random numbers depend on."""
    stop = made.num_rows if stop is None else stop
    table = made.rows(start, stop)
    return list(zip(*(column.to_pylist() for column in table), made.repetitions(start, stop).tolist(), strict=True))


layouts = st.one_of(
    st.integers(1, 9).map(EveryCell), st.builds(Draws, st.integers(1, 90), st.integers(0, 9)), st.just(None)
)


@given(layouts, st.data())
def test_parts_of_any_size_in_any_order_give_the_same_rows(layout: Layout | None, data: st.DataObject) -> None:
    made = crossing(layout or EveryCell(1))
    if layout is None:
        ranges = data.draw(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), min_size=12, max_size=12))
        made = made.with_attempts(ranges)
    cuts = sorted({0, made.num_rows, *data.draw(st.lists(st.integers(0, made.num_rows), max_size=6))})
    parts = list(pairwise(cuts))
    pieces = {part: rows_of(made, *part) for part in data.draw(st.permutations(parts))}
    assert [row for part in parts for row in pieces[part]] == rows_of(made)


def test_every_cell_has_exactly_its_rows_and_repetitions_cell_by_cell() -> None:
    made = crossing(EveryCell(3))
    rows = rows_of(made)
    assert len(rows) == made.num_rows == made.num_cells * 3 == 36
    assert set(Counter(row[:-1] for row in rows).values()) == {3}
    assert [row[-1] for row in rows] == [0, 1, 2] * 12
    assert rows[:2] == [("sport", 10, 0.5, 0), ("sport", 10, 0.5, 1)]
    assert made.cells(0, 36).tolist() == [cell for cell in range(12) for _ in range(3)]
    assert made.schema == pa.schema({"topic": pa.string(), "size": pa.int64(), "heat": pa.float64()})


@pytest.mark.parametrize("topics", [["art", "sport", "new", "science"], ["new", *LISTS["topic"]]])
def test_a_new_value_leaves_every_row_of_the_old_cells_as_it_was(topics: list[str]) -> None:
    old, new = rows_of(crossing(EveryCell(3))), rows_of(crossing(EveryCell(3), topic=topics))
    assert set(old) == {row for row in new if row[0] != "new"}
    assert len(new) == len(old) + 3 * 4


def test_more_rows_of_a_cell_leave_the_first_ones_as_they_were() -> None:
    assert set(rows_of(crossing(EveryCell(3)))) < set(rows_of(crossing(EveryCell(5))))


def test_drawn_rows_change_only_where_they_draw_the_new_value() -> None:
    old, new = rows_of(crossing(Draws(900, 1))), rows_of(crossing(Draws(900, 1), topic=["new", *LISTS["topic"]]))
    changed = [after for before, after in zip(old, new, strict=True) if before != after]
    assert {row[0] for row in changed} == {"new"}
    assert 150 < len(changed) < 300
    assert [row[-1] for row in old] == list(range(900))
    assert rows_of(crossing(Draws(1_000, 1)))[:900] == old


def test_attempts_are_rows_of_the_full_crossing() -> None:
    made = crossing(EveryCell(1))
    ranges = [(2 * cell, cell % 3) for cell in range(12)]
    rows = rows_of(made.with_attempts(ranges))
    full = rows_of(crossing(EveryCell(30)))
    assert rows == [full[cell * 30 + first + n] for cell, (first, count) in enumerate(ranges) for n in range(count)]
    with pytest.raises(ValueError, match="2 ranges for 12 cells"):
        made.with_attempts([(0, 1), (0, 1)])


def test_a_cell_is_found_by_its_values() -> None:
    made = crossing(EveryCell(2))
    assert made.cell_values(5) == {"topic": "science", "size": 10, "heat": 1.0}
    assert [made.cell_of(made.cell_values(cell)) for cell in range(12)] == list(range(12))
    table = made.rows(0, 24).append_column("completion", pa.array(["x"] * 24))
    assert made.cells_of(table).tolist() == made.cells(0, 24).tolist()
    with pytest.raises(KeyError, match="a value of the column 'topic' is not in its list"):
        made.cell_of({"topic": "none", "size": 10, "heat": 0.5})
    with pytest.raises(IndexError):
        made.cell_values(12)


@pytest.mark.parametrize("layout", [EveryCell(2), Draws(50, 3), None])
def test_a_crossing_is_stored_and_sent_without_a_change(layout: Layout | None) -> None:
    made = crossing(layout or EveryCell(1))
    if layout is None:
        made = made.with_attempts(np.array([[1, 2]] * 12))
    stored = Crossing.from_json(json.loads(json.dumps(made.to_json())))
    for other in (stored, pickle.loads(pickle.dumps(made))):
        assert (other.digest, other.num_rows) == (made.digest, made.num_rows)
        assert rows_of(other) == rows_of(made)


def test_the_digest_changes_with_everything_that_the_rows_depend_on() -> None:
    others = [EveryCell(2), EveryCell(3), Draws(24, 0), Draws(25, 0), Draws(24, 1)]
    digests = {crossing(layout).digest for layout in others}
    digests |= {
        crossing(EveryCell(2), topic=["sport"]).digest,
        crossing(EveryCell(2)).with_attempts([(0, 1)] * 12).digest,
    }
    assert len(digests) == 7


def test_only_the_columns_that_are_asked_for_are_made() -> None:
    assert crossing(EveryCell(1)).rows(0, 2, only=["size", "topic"]).to_pydict() == {
        "size": [10, 10],
        "topic": ["sport", "sport"],
    }


def test_rows_outside_of_the_crossing_are_an_error() -> None:
    with pytest.raises(IndexError):
        crossing(EveryCell(1)).rows(0, 13)


def test_too_many_cells_and_too_long_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {f"n{index}": list(range(100)) for index in range(10)}
    with pytest.raises(RequestError, match="at most"):
        crossing(EveryCell(1), **numbers)
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 10)
    with pytest.raises(RequestError, match="put the longest list into --input"):
        crossing(EveryCell(1))
