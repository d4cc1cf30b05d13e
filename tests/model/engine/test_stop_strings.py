"""Where a completion's text meets a stop string: in characters, the earliest, across tokens and half characters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tirazh.model.engine.stop_strings import find_stop


def decode(token_ids: Sequence[int]) -> str:
    """A token is a byte, so that a Cyrillic letter is two tokens."""
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
def test_the_earliest_stop_string_counts_in_characters(text: str, stop: tuple[str, ...], end: int | None) -> None:
    assert find_stop(list(text.encode()), stop, decode) == end


def test_half_a_character_is_no_stop_until_its_other_half_comes() -> None:
    tokens = list("ах".encode())
    assert find_stop(tokens[:3], ("х",), decode) is None
    assert find_stop(tokens, ("х",), decode) == 1


def test_stop_strings_without_a_decoder_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="stop strings need a decoder"):
        find_stop([1], ("a",), None)
