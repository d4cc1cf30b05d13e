"""What `tirazh preview` prints for a row."""

from __future__ import annotations

from typing import Any

from tirazh.jobs.terminal.preview_text import preview_text, shorten


def text_of(prompt: str | None, *outputs: dict[str, Any]) -> list[str]:
    made = [{"row": 1_234, "input": "a.parquet", "prompt": prompt, "output": [{"n": 1, **each} for each in outputs]}]
    names = list(dict.fromkeys(name for each in outputs for name in each))
    return preview_text({"rows": made, "added_columns": names, "input_rows": 5_000}).splitlines()


def test_a_row_shows_its_place_its_prompt_and_what_is_added_to_it() -> None:
    assert text_of("Москва —", {"completion": " столица", "finish_reason": "stop", "error": None}) == [
        "row 1,234 of 5,000, a.parquet",
        "  prompt         Москва —",
        "  completion      столица",
        "  finish_reason  stop",
    ]


def test_lines_of_a_text_stand_below_each_other() -> None:
    assert text_of("a\nb", {"completion": "c"}) == [
        "row 1,234 of 5,000, a.parquet",
        "  prompt      a",
        "              b",
        "  completion  c",
    ]


def test_a_row_without_a_prompt_shows_only_its_error() -> None:
    assert text_of(None, {"completion": None, "error": "column 'text' is null"})[1:] == [
        "  error  column 'text' is null"
    ]


def test_all_samples_of_a_row_are_shown() -> None:
    assert text_of("p", {"sample": 0, "completion": "a"}, {"sample": 1, "completion": "b"})[2:] == [
        "  sample      0",
        "  completion  a",
        "  sample      1",
        "  completion  b",
    ]


def test_a_long_prompt_is_shortened_in_the_middle() -> None:
    assert shorten("a" * 300 + "b" * 300, 400) == "a" * 200 + " … (200 characters) … " + "b" * 200
    assert shorten("a" * 400, 400) == "a" * 400


def test_the_most_likely_labels_are_shown() -> None:
    labels = [
        {"label": name, "probability": chance}
        for name, chance in zip("abcdef", (0.1, 0.4, 0.3, 0.1, 0.1, 0), strict=True)
    ]
    assert text_of("p", {"probabilities": labels})[-1].endswith("b 0.40, c 0.30, a 0.10, d 0.10, and 2 more")


def test_control_characters_of_a_text_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in "".join(text_of("\x1b[2J", {"completion": "\x1b[2J"}))
