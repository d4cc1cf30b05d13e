"""Settings that hold a structure are read from Python, YAML text and files, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.jobs.yaml_values.structures import read_structure


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"topic": ("a", "b"), 5: 1.5}, {"topic": ["a", "b"], "5": 1.5}),
        ("{topic: [a, b]}", {"topic": ["a", "b"]}),
        ({"topic": Path("a.txt")}, {"topic": "a.txt"}),
        ("short-ru", "short-ru"),
        (["short-ru", {"min_chars": 20}], ["short-ru", {"min_chars": 20}]),
    ],
)
def test_python_values_and_yaml_text_give_plain_values(given: Any, value: Any) -> None:
    assert read_structure("vary", given) == value


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vary.yaml"
    path.write_text("topic: [a, b]\n", encoding="utf-8")
    assert read_structure("vary", path) == {"topic": ["a", "b"]}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"a": object}, "vary holds <class 'object'>, which is no text, number, list or mapping"),
        ({True: 1}, "vary has the key True; put it in quotes"),
        ("missing.yaml", "vary file missing.yaml does not exist"),
    ],
)
def test_another_value_is_refused(given: Any, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_structure("vary", given)
    assert str(caught.value) == says
