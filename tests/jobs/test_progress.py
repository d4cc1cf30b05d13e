"""The progress display of a running job: in a log, in a terminal and with -q."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from tirazh.jobs.progress import ByteProgress, JobProgressDisplay, clock_text, describe
from tirazh.model.byte_text import bytes_text
from tirazh.pipeline.execution.metrics import ProgressEvent


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def event(rows: int = 250, **values: Any) -> ProgressEvent:
    facts: dict[str, Any] = {
        **{"rows_done": rows, "rows_total": 1000, "rows_resumed": 0, "parts_done": rows // 100, "parts_total": 10},
        **{"error_rows": 0, "prompt_tokens": 9_000, "completion_tokens": 1_000, "replicas": 2, "elapsed_s": 10.0},
    }
    return ProgressEvent(**(facts | values))


def test_a_log_line_shows_counts_speed_and_remaining_time() -> None:
    assert describe(event(rows_safe=200, replicas_wanted=3)) == (
        "250 of 1,000 rows (25%), 200 safe · 2 of 10 parts · 1,000 tokens/s · 2/3 replicas · 0:30 left"
    )


def test_progress_shows_errors_only_when_there_are_some() -> None:
    assert "· 1 replica · 3 errors ·" in describe(event(error_rows=3, replicas=1))


def test_remaining_time_ignores_the_rows_of_earlier_runs() -> None:
    assert describe(event(rows=500, rows_resumed=400)).endswith("0:50 left")


@pytest.mark.parametrize(("values", "ends"), [({"rows": 0}, "starting, 0:10"), ({"rows": 1000}, "took 0:10")])
def test_progress_ends_with_the_remaining_time_or_the_time_taken(values: dict[str, int], ends: str) -> None:
    assert describe(event(**values)).endswith(ends)


def test_a_log_gets_a_line_every_ten_seconds_and_a_last_one() -> None:
    stream, clock = io.StringIO(), Clock()
    with JobProgressDisplay(stream=stream, clock=clock) as progress:
        assert progress.style == "lines"
        for second in range(31):
            clock.now = float(second)
            progress.show(event(rows=second))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["2", "12", "22", "30"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \d", line) for line in lines)


@pytest.mark.parametrize(
    ("waiting_for", "shown"),
    [("Ray", "0:10, waiting for Ray"), ("loading the model", "0:10, loading the model")],
)
def test_a_start_says_what_it_waits_for(waiting_for: str, shown: str) -> None:
    assert describe(event(rows=0, waiting_for=waiting_for)).endswith(shown)


def test_the_time_left_follows_from_the_recent_speed() -> None:
    assert describe(event(recent_eta_s=12.0, recent_tokens_per_s=500.0)).endswith(
        "500 tokens/s · 2 replicas · 0:12 left"
    )


def test_the_last_row_alone_makes_100_per_cent() -> None:
    assert "(99%)" in describe(event(rows=9_999, rows_total=10_000))
    assert "(100%)" in describe(event(rows=10_000, rows_total=10_000))


def test_json_has_the_figures_of_each_line_and_messages() -> None:
    stream, clock = io.StringIO(), Clock()
    with JobProgressDisplay("json", stream=stream, clock=clock) as progress:
        progress.say("a replica was started again")
        clock.now = 5.0
        progress.show(event(rows_safe=200, replicas_wanted=3, error_rows=1, step="step 1 of 2: body"))
    message, line = map(json.loads, stream.getvalue().splitlines())
    assert message["message"] == "a replica was started again"
    assert line | {"time": ""} == {
        **{"time": "", "rows_answered": 250, "rows_safe": 200, "rows_total": 1000, "parts_done": 2, "parts_total": 10},
        **{"errors": 1, "tokens": 10_000, "tokens_per_s": 1000.0, "replicas": 2, "replicas_wanted": 3, "eta_s": 30.0},
        **{"elapsed_s": 5.0, "waiting_for": "", "step": "step 1 of 2: body"},
    }


def test_a_bar_that_cannot_be_drawn_becomes_lines() -> None:
    assert JobProgressDisplay("bar", stream=io.StringIO()).style == "lines"


def test_the_last_progress_line_is_not_printed_twice() -> None:
    stream, clock = io.StringIO(), Clock()
    with JobProgressDisplay(stream=stream, clock=clock) as progress:
        clock.now = 5.0
        progress.show(event())
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_gets_one_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with JobProgressDisplay(stream=stream) as progress:
        assert progress.style == "bar"
        progress.show(event())
        progress.show(event(rows=300))
    assert "300/1,000 30%" in stream.getvalue()
    assert "2 replicas" in stream.getvalue()


def test_a_quiet_display_prints_nothing_and_keeps_the_last_event() -> None:
    stream = Terminal()
    with JobProgressDisplay("quiet", stream=stream) as progress:
        progress.show(event())
    assert stream.getvalue() == ""
    assert progress.last is not None


def test_an_interrupted_job_says_which_rows_are_safe() -> None:
    progress = JobProgressDisplay("quiet")
    progress.show(event(rows=133, rows_total=760, rows_safe=120, parts_done=12, parts_total=76))
    assert progress.interrupted() == (
        "interrupted: 133 rows answered, 120 of them safe in 12 of 76 parts; run the same command to resume"
    )


def test_an_interrupt_before_the_first_part_says_how_to_start_again() -> None:
    assert JobProgressDisplay("quiet").interrupted().startswith("interrupted before the first part was written")


def test_byte_progress_is_shown_in_a_terminal_and_hidden_by_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, quiet, shown in ((Terminal(), False, "\r 50% of 2.0 MiB\n"), (Terminal(), True, "")):
        progress = ByteProgress(quiet, stream=stream)
        progress._next = 0.0
        with progress:
            progress.show(2**20, 2**21)
            progress.show(2**20, 2**21)
        assert stream.getvalue() == shown


def test_durations_and_byte_counts_are_formatted() -> None:
    assert [clock_text(seconds) for seconds in (7, 750, 3723)] == ["0:07", "12:30", "1:02:03"]
    assert [bytes_text(count) for count in (2**20, 3 * 2**30)] == ["1.0 MiB", "3.0 GiB"]
