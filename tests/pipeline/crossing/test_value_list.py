"""The values of a name: texts or numbers, all different, with weights that can be drawn from."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.crossing import value_list
from tirazh.pipeline.crossing.value_list import ValueList, make_list


@pytest.mark.parametrize(
    ("values", "arrow_type"),
    [(["a", "ё"], pa.string()), (["1", "2"], pa.string()), ([1, 2], pa.int64()), ([1, 2.5], pa.float64())],
)
def test_a_list_has_the_type_of_its_values(values: list[Any], arrow_type: pa.DataType) -> None:
    made = make_list("x", values)
    assert made.values.type == arrow_type
    assert made.values.to_pylist() == values


@pytest.mark.parametrize(
    ("values", "weights", "says"),
    [
        ([], None, "--vary, x: the list is empty"),
        (["a", None], None, "value 2 is null"),
        (["a", True], None, "value 2 is true, not a text or a number; put it in quotes"),
        (["a", ["b"]], None, r"value 2 is \"\['b'\]\", not a text or a number"),
        ([1, "a"], None, r"value 2 is a text and value 1 a number \(1\); put all numbers in quotes"),
        ([1.0, float("nan")], None, "value 2 is nan, not a finite number"),
        ([1 << 63], None, "value 1 does not fit in 64 bits"),
        (["a\0b"], None, "value 1 contains a NUL"),
        (["\ud800"], None, "value 1 contains bytes that are not UTF-8"),
        (["a", "b", "a"], None, r"'a' occurs twice \(value 1 and value 3\); remove one of them"),
        ([1, 1.0], None, r"1.0 occurs twice \(value 1 and value 2\)"),
        (["a", "b"], [1], "there are 2 values and 1 weights"),
        (["a", "b"], [1, -1], "the weight of 'b' must be a number of at least 0, not -1"),
        (["a", "b"], [1, float("nan")], "the weight of 'b' must be a number of at least 0, not nan"),
        (["a", "b"], [1, "heavy"], "the weight of 'b' must be a number of at least 0, not 'heavy'"),
        (["a", "b"], [1, True], "the weight of 'b' must be a number of at least 0, not True"),
        (["a", "b"], [0, 0], "all weights are 0"),
    ],
)
def test_values_that_cannot_be_used_are_refused(values: list[Any], weights: list[Any] | None, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        make_list("x", values, weights)
    assert "\n" not in str(caught.value)


def test_very_long_lists_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_list, "MAX_VALUES", 3)
    with pytest.raises(RequestError, match="more than 3 values; put them into --input"):
        make_list("x", ["a", "b", "c", "d"])


def test_the_digest_changes_with_name_type_values_weights_and_order() -> None:
    lists = [
        make_list("x", ["1", "2"]),
        make_list("y", ["1", "2"]),
        make_list("x", [1, 2]),
        make_list("x", ["2", "1"]),
        make_list("x", ["1", "2"], [1, 1]),
    ]
    assert len({each.digest for each in lists}) == len(lists)
    assert all(ValueList.from_json(each.to_json()).digest == each.digest for each in lists)


def test_mean_bytes_count_utf8_and_weights() -> None:
    assert make_list("x", ["a", "ёж"]).mean_bytes == 2.5
    assert make_list("x", ["a", "ёж"], [3, 1]).mean_bytes == 1.75
    assert make_list("x", [1, 1000]).mean_bytes == 2.5
