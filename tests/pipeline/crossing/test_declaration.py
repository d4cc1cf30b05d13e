"""What may be written for vary, rows and per_cell; every mistake is one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.crossing.declaration import Declaration, FileColumn, parse_file, parse_vary
from tirazh.pipeline.spec import GenerateSpec


def spec(**settings: Any) -> GenerateSpec:
    return GenerateSpec(output="out", **settings)


def sentence(**settings: Any) -> str:
    with pytest.raises(RequestError) as caught:
        spec(**settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_list_a_mapping_of_weights_and_a_file_are_told_apart() -> None:
    assert parse_vary(
        {
            "style": ["plain", 2],
            "mood": {"calm": 3, "angry": 1.5},
            "topic": "topics.txt",
            "persona": "s3://b/people.parquet#text",
            "city": {"values": "cities.csv#name", "weights": "people"},
            "size": {"values": [1, 2], "weights": [3, 1]},
            "values": {"values": 1, "weights": 2},
        }
    ) == (
        Declaration("style", ("plain", 2)),
        Declaration("mood", ("calm", "angry"), (3, 1.5)),
        Declaration("topic", FileColumn("topics.txt", "txt")),
        Declaration("persona", FileColumn("s3://b/people.parquet", "parquet", "text")),
        Declaration("city", FileColumn("cities.csv", "csv", "name"), "people"),
        Declaration("size", (1, 2), (3, 1)),
        Declaration("values", ("values", "weights"), (1, 2)),
    )


def test_the_first_suffix_of_a_file_ends_its_name_and_the_column_follows() -> None:
    assert parse_file("a#1.CSV#b#c.txt") == FileColumn("a#1.CSV", "csv", "b#c.txt")
    assert parse_file("plain") is None
    assert parse_file("people.json") is None


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        ([], "--vary must be a mapping of template variables to values"),
        ({}, "--vary must be a mapping of template variables to values"),
        ({"style": "plain"}, "the values must be a list, a mapping of values to weights, or a .txt, .csv, .jsonl or "
            ".parquet file, not the text 'plain'; write one value as a list: [plain]"),
        ({"style": None}, "style: the values must be a list, .*, not None"),
        ({"mood": {"calm": 3, "angry": "x"}}, "mood: the weight of 'angry' must be a number, not 'x'"),
        ({"mood": {"calm": True}}, "mood: the weight of 'calm' must be a number, not True"),
        ({"mood": {"values": ["a"], "wieghts": [1]}}, "unknown key 'wieghts'; did you mean weights?"),
        ({"mood": {"weights": [1]}}, "values must be a list or a file, not None"),
        ({"mood": {"values": ["a"], "weights": 3}}, "weights must be a list of numbers or the name of a column"),
        ({"mood": {"values": ["a"], "weights": "w"}}, "weights: w names a column, but the values are in no file"),
        ({"mood": {"values": "a.txt", "weights": "w"}}, "weights: w names a column, but the values are in no file"),
        ({"mood": "a.txt#b"}, "a .txt file has no columns; write a.txt"),
        ({"mood": "s3://user:password@b/a.txt"}, "contains a password or a signature"),
        ({f"n{number}": ["a"] for number in range(33)}, "--vary has 33 names; at most 32 are allowed"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_sentence(vary: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says.replace("[plain]", r"\[plain\]")) as caught:
        spec(vary=vary, per_cell=1)
    assert "\n" not in str(caught.value)


def test_the_number_of_rows_is_given_once() -> None:
    vary = {"style": ["a"]}
    assert "--vary needs the number of rows" in sentence(vary=vary)
    assert "--rows and --per-cell are not used together" in sentence(vary=vary, rows=1, per_cell=1)
    assert "--rows must be between 1 and 2147483647, not 0" in sentence(vary=vary, rows=0)
    assert "--per-cell must be between" in sentence(vary=vary, per_cell=1 << 31)
    assert "--accepted counts rows of every cell" in sentence(vary=vary, rows=5, accepted=5)
    assert spec(vary=vary, accepted=5).vary == vary


def test_rows_and_cells_need_values_and_values_need_no_input() -> None:
    assert "give --vary, or leave --rows out" in sentence(input=("a.parquet",), rows=3)
    assert "give --vary, or leave --per-cell out" in sentence(input=("a.parquet",), per_cell=3)
    assert "no input was given" in sentence()
