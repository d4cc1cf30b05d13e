"""Where a completion's text meets a stop string: in characters, the earliest, across tokens and
half characters, and without decoding the whole completion for each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.model.engine.stop_strings import StopFinder
from tirazh.model.requests import SamplingParams


def decode(token_ids: Sequence[int]) -> str:
    """Decode tokens that are bytes, so that a Cyrillic letter takes two tokens."""
    return bytes(token_ids).decode("utf-8", errors="replace")


def splits_before(token: int) -> bool:
    """A byte of ASCII begins a character. The first byte of a longer one does too, but it is not told from others."""
    return token < 128


def find_by_definition(token_ids: Sequence[int], stop: Sequence[str], min_new_tokens: int) -> int | None:
    """The whole text, decoded anew."""
    if len(token_ids) <= min_new_tokens:
        return None
    text, passed = decode(token_ids), len(decode(token_ids[:min_new_tokens]))
    found = [text.find(string, max(0, passed - len(string) + 1)) for string in stop]
    return min((at for at in found if at >= 0), default=None)


def find_token_by_token(finder: StopFinder, token_ids: Sequence[int]) -> tuple[int, int] | None:
    """The number of tokens after which a stop string is found, and where it begins."""
    for count in range(1, len(token_ids) + 1):
        at = finder.find(token_ids[:count])
        if at is not None:
            return count, at
    return None


def params(stop: tuple[str, ...], min_new_tokens: int = 0) -> SamplingParams:
    return SamplingParams(max_new_tokens=1000, stop=stop, min_new_tokens=min_new_tokens)


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
@pytest.mark.parametrize("splits", [splits_before, None])
def test_the_earliest_stop_string_is_found_and_its_start_counted_in_characters(
    text: str, stop: tuple[str, ...], end: int | None, splits: Callable[[int], bool] | None
) -> None:
    assert StopFinder(params(stop), decode, splits).find(list(text.encode())) == end


def test_a_stop_string_is_found_only_when_all_tokens_of_its_characters_are_there() -> None:
    tokens, finder = list("ах".encode()), StopFinder(params(("х",)), decode, splits_before)
    assert finder.find(tokens[:3]) is None
    assert finder.find(tokens) == 1


words = st.sampled_from(["a", "ab", "b", " ", "я", "яб", "€", "\ufffd", "🙂"])
stops = st.lists(st.lists(words, min_size=1, max_size=5).map("".join), min_size=1, max_size=3).map(tuple)
text_tokens = st.lists(words, max_size=60).map(lambda parts: list("".join(parts).encode()))
any_bytes = st.lists(st.sampled_from([97, 98, 32, 0xD1, 0x8F, 0xE2, 0x82, 0xAC, 0xFF]), max_size=60)


@settings(max_examples=500, deadline=None)
@given(text_tokens | any_bytes, stops, st.sampled_from([0, 0, 0, 1, 4, 20]), st.sampled_from([splits_before, None]))
def test_every_token_is_searched_as_if_the_whole_completion_were_decoded(
    tokens: list[int], stop: tuple[str, ...], least: int, splits: Callable[[int], bool] | None
) -> None:
    finder = StopFinder(params(stop, least), decode, splits)
    for count in range(1, len(tokens) + 1):
        expected = find_by_definition(tokens[:count], stop, least)
        assert finder.find(tokens[:count]) == expected
        if expected is not None:
            return


def test_only_the_tokens_that_can_complete_a_stop_string_are_decoded() -> None:
    decoded: list[int] = []

    def counting(token_ids: Sequence[int]) -> str:
        decoded.append(len(token_ids))
        return decode(token_ids)

    finder = StopFinder(params(("12345", "\n\n")), counting, splits_before)
    assert find_token_by_token(finder, list(b"one 1234 two 12345" * 40)[: 18 * 40]) == (18, 13)
    finder = StopFinder(params(("never", "\n\n")), counting, splits_before)
    assert find_token_by_token(finder, list("one two я ".encode() * 100)) is None
    assert max(decoded) <= len("never") + 2


def test_stop_strings_without_a_decoder_raise_a_value_error() -> None:
    with pytest.raises(ValueError, match="stop strings need a decoder"):
        StopFinder(params(("a",)), None)
