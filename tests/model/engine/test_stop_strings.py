"""Where a completion's text meets a stop string: in characters, the earliest, across tokens and
half characters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tirazh.model.engine.stop_strings import find_stop


def decode(token_ids: Sequence[int]) -> str:
    """Decode tokens that are bytes, so that a Cyrillic letter takes two tokens."""
    return bytes(token_ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("text", "stop", "end"),
    [
        ("one two", ("two",), 4),
        ("one two", ("three",), None),
        ("one two", ("two", "one"), 0),
        ("one two", ("two", "e t"), 2),
        ("two two", ("two",), 0),
        ("мама мыла раму", ("мыла",), 5),
        ("строка\n", ("\n",), 6),
        ("", ("a",), None),
    ],
)
def test_the_earliest_stop_string_is_found_and_its_start_counted_in_characters(
    text: str, stop: tuple[str, ...], end: int | None
) -> None:
    assert find_stop(list(text.encode()), stop, decode) == end


def test_a_stop_string_is_found_only_when_all_tokens_of_its_characters_are_there() -> None:
    tokens = list("ах".encode())
    assert find_stop(tokens[:3], ("х",), decode) is None
    assert find_stop(tokens, ("х",), decode) == 1


def test_stop_strings_without_a_decoder_raise_a_value_error() -> None:
    with pytest.raises(ValueError, match="stop strings need a decoder"):
        find_stop([1], ("a",), None)
