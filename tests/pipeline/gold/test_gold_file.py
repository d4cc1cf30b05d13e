"""Gold labels are found by keys of any type, as a dictionary finds them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.gold.gold_file import GoldFile, match, positions, text_column

KEYS = st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=20)
KINDS = st.sampled_from([pa.int8(), pa.int64(), pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])


def chunked(values: list[int | None], kind: pa.DataType) -> pa.ChunkedArray:
    texts = pa.array([None if value is None else str(value) for value in values], pa.string())
    is_text = not pa.types.is_integer(kind)
    column = texts.cast(kind) if is_text else pa.array(values, kind)
    return pa.chunked_array([column[: len(values) // 2], column[len(values) // 2 :]])


@given(KEYS, st.dictionaries(st.integers(-5, 5), st.sampled_from("ab")), KINDS, KINDS)
def test_labels_are_those_of_a_dictionary(
    keys: list[int | None], labels: dict[int, str], of_rows: pa.DataType, of_gold: pa.DataType
) -> None:
    gold = GoldFile(
        "gold", "id", chunked(list(labels), of_gold), pa.chunked_array([pa.array(labels.values(), "string")])
    )
    found = match(gold, chunked(keys, of_rows))
    assert found.labels.to_pylist() == [labels.get(key) if key is not None else None for key in keys]
    known = {key for key in keys if key is not None}
    assert found.gold_keys_without_row == len(labels.keys() - known)
    assert found.repeated_row_keys == sum(key is not None for key in keys) - len(known)


@given(st.permutations(range(12)), st.integers(0, 12), KINDS)
def test_positions_are_those_of_equal_keys(order: list[int], count: int, kind: pa.DataType) -> None:
    found = positions(chunked(list(range(12)), pa.int64()), chunked(order[:count], kind), "id")
    assert found.tolist() == [order[:count].index(key) if key in order[:count] else -1 for key in range(12)]


def test_keys_above_the_largest_signed_integer_are_compared() -> None:
    large = pa.chunked_array([pa.array([2**63, 1], pa.uint64())])
    gold = GoldFile("gold", "id", large, pa.chunked_array([pa.array(["a", "b"])]))
    rows = pa.chunked_array([pa.array([1, -1], pa.int32())])
    assert match(gold, rows).labels.to_pylist() == ["b", None]


def test_gold_labels_of_integers_are_texts_and_numbers_with_fractions_are_refused() -> None:
    assert text_column(pa.chunked_array([pa.array([1, None])]), "gold").to_pylist() == ["1", None]
    assert text_column(pa.chunked_array([pa.nulls(2)]), "gold").to_pylist() == [None, None]
    with pytest.raises(InputError, match="gold is of type double; gold labels must be texts"):
        text_column(pa.chunked_array([pa.array([0.5])]), "gold")
