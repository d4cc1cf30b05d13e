"""Numbers, shares, times and names as people read them."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.report.words import (
    bytes_text,
    clip,
    duration_text,
    moment_of,
    name_text,
    percent_text,
    period_text,
    rounded_shares,
    share_text,
)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_shares_of_a_whole_add_up_to_100(counts: list[int]) -> None:
    shares = [float(plain(share).removesuffix(" %")) for share in rounded_shares(counts, sum(counts))]
    assert round(sum(shares), 1) == (100.0 if sum(counts) else 0.0)
    for share, count in zip(shares, counts, strict=True):
        assert abs(share - 100 * count / (sum(counts) or 1)) < 0.1001


def test_shares_of_a_part_do_not() -> None:
    assert [plain(share) for share in rounded_shares([1, 1], 4)] == ["25.0 %", "25.0 %"]


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    assert [percent_text(share) for share in (0.0, 0.0001, 0.84, 0.9999, 1.0)] == [
        f"{each}\N{NO-BREAK SPACE}%" for each in (0, 1, 84, 99, 100)
    ]
    assert share_text(1, 10**6) == "1"
    assert plain(share_text(3, 350)) == "0.9 %"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "less than 1 s"), (59.4, "59 s"), (60, "1 min"), (302, "5 min 2 s"), (7_500, "2 h 5 min"), (3_600, "1 h")],
)
def test_durations_have_their_units(seconds: float, text: str) -> None:
    assert plain(duration_text(seconds)) == text


def test_a_period_names_its_day_once() -> None:
    begin, end = datetime(2026, 11, 23, 1, 30, tzinfo=UTC), datetime(2026, 11, 23, 1, 35, tzinfo=UTC)
    assert plain(period_text(begin, end)) == "23 November 2026, 01:30 to 01:35 UTC"
    assert plain(period_text(begin, end.replace(day=24))).count("November") == 2
    assert plain(period_text(None, end)) == "23 November 2026, 01:35 UTC"
    assert period_text(None, None) == ""


@pytest.mark.parametrize("text", [None, 7, "", "yesterday", "2026-13-01"])
def test_what_is_no_time_has_none(text: object) -> None:
    assert moment_of(text) is None


def test_times_are_shown_in_utc() -> None:
    assert moment_of("2026-11-23T04:30:00+03:00") == datetime(2026, 11, 23, 1, 30, tzinfo=UTC)


def test_keys_of_a_manifest_have_names() -> None:
    assert [name_text(key) for key in ("prompt_tokens", "num_parts", "some_figure")] == [
        "Prompt tokens",
        "Parts",
        "Some figure",
    ]


def test_sizes_have_units() -> None:
    assert [plain(bytes_text(count)) for count in (0, 1023, 10_240, 3 * 1024**3)] == [
        "0 bytes",
        "1,023 bytes",
        "10.0 KiB",
        "3.0 GiB",
    ]


@given(st.text(max_size=60), st.integers(1, 20))
def test_a_text_is_bounded_and_has_no_control_characters(text: str, most: int) -> None:
    shown = clip(text, most)
    assert len(shown) <= most + 1
    assert not {unicodedata.category(sign) for sign in shown if sign != "\n"} & {"Cc", "Cs", "Co", "Cn"}
    shown.encode()


def test_spaces_and_joined_signs_are_texts_and_turns_of_direction_are_not() -> None:
    text = "10\N{NO-BREAK SPACE}% 🏴‍☠️\ttab"
    assert clip(text, 80) == text.replace("\t", " ")
    assert clip("a\u202egnp.exe\x1b", 80) == "a\ufffdgnp.exe\ufffd"
