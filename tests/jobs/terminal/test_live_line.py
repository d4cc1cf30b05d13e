"""The progress of a job in real pseudo-terminals of several widths and kinds."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.conftest import REPOSITORY
from tirazh.jobs.terminal.live_line import LineState, fit

PROGRAM = """
import sys, time
from tirazh.jobs.progress import JobProgressDisplay
from tirazh.pipeline.execution.metrics import ProgressEvent
done = int(sys.argv[1])
event = ProgressEvent(rows_done=done, rows_total=1_234_567, rows_resumed=0, parts_done=120, parts_total=420,
                      error_rows=int(sys.argv[2]), prompt_tokens=9_000_000, completion_tokens=1_000_000, replicas=4,
                      elapsed_s=545.0, rows_safe=487_000 if done else 0, replicas_wanted=4,
                      waiting_for="" if done else "loading the model")
with JobProgressDisplay(stream=sys.stderr) as progress:
    progress.show(event)
    progress.say("a replica was started again")
    time.sleep(0.6)
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def terminal_output(*, columns: int, rows: int = 493_824, errors: int = 17, **variables: str) -> str:
    """Run the display in a terminal and return what it wrote."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    ours = ("COLUMNS", "LINES", "NO_COLOR", "TERM", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color"} | variables
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(rows), str(errors)],
        cwd=REPOSITORY,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    written = b""
    try:
        while chunk := os.read(main, 65_536):
            written += chunk
    except OSError:  # Linux reports the end of a pseudo-terminal as an error
        pass
    finally:
        os.close(main)
    assert process.wait(timeout=60) == 0, written.decode()
    return written.decode()


def last_line(written: str) -> str:
    """The last line with counts, without escape sequences."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", written))]
    return [line for line in lines if "%" in line or "rows" in line][-1]


@pytest.mark.parametrize(
    ("columns", "shows", "drops"),
    [
        (30, ["40%", "left"], ["493,824"]),
        pytest.param(*(40, ["493,824/1,234,567 40%", "13:38 left"], ["errors", "tokens", "━"]), marks=pytest.mark.slow),
        pytest.param(
            *(60, ["493,824/1,234,567 40%", "13:38 left", "17 errors"], ["tokens", "parts"]), marks=pytest.mark.slow
        ),
        (80, ["493,824/1,234,567 40%", "13:38 left", "17 errors", "487,000 safe"], ["parts", "replicas"]),
        (120, ["493,824/1,234,567 40%", "17 errors", "487,000 safe", "tokens/s", "4/4 replicas", "120/420 parts"], []),
    ],
)
def test_rows_share_and_time_are_visible_at_every_width(columns: int, shows: list[str], drops: list[str]) -> None:
    line = last_line(terminal_output(columns=columns))
    assert len(line) <= columns
    assert [text for text in shows if text not in line] == []
    assert [text for text in drops if text in line] == []
    assert "…" not in line


def test_the_live_line_uses_colours_unless_no_color_is_set() -> None:
    colour = re.compile(r"\x1b\[[0-9;]*m")
    assert colour.search(terminal_output(columns=140))
    plain = terminal_output(columns=140, NO_COLOR="1")
    assert not [code for code in colour.findall(plain) if re.search(r"[34]\d|38;|48;", code)]
    bar = re.search(r"━+ *", ESCAPES.sub("", plain))
    assert bar is not None
    assert bar[0].rstrip(" ") != bar[0].rstrip("━")  # the rest of the bar is blank
    assert "493,824/1,234,567 40%" in last_line(plain)


@pytest.mark.parametrize("name", ["dumb", *(pytest.param(each, marks=pytest.mark.slow) for each in ("unknown", ""))])
def test_a_terminal_that_cannot_draw_a_line_again_gets_lines_with_a_utc_time(name: str) -> None:
    written = terminal_output(columns=80, TERM=name)
    assert "\x1b" not in written
    lines = written.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line)
    assert "493,824 of 1,234,567 rows (40%), 487,000 safe · 120 of 420 parts" in lines[-1]


def test_a_message_appears_above_the_live_line() -> None:
    written = ESCAPES.sub("", terminal_output(columns=100))
    assert "a replica was started again\r\n" in written


def test_facts_are_dropped_from_the_last_to_the_first_and_the_bar_before_them() -> None:
    state = LineState(done=5, total=10, time="0:30 left", facts=("3 errors", "1 replica", "9 tokens/s"))
    texts = [fit(state, width) for width in range(80, 2, -1)]
    shown = list(dict.fromkeys(text for _, text in texts))
    assert shown == [
        "5/10 50% · 0:30 left · 3 errors · 1 replica · 9 tokens/s",
        "5/10 50% · 0:30 left · 3 errors · 1 replica",
        "5/10 50% · 0:30 left · 3 errors",
        "5/10 50% · 0:30 left",
        "50% · 0:30 left",
        "50%",
    ]
    assert all(bar + len(text) <= width for (bar, text), width in zip(texts, range(80, 2, -1), strict=True))
    assert fit(state, 80)[0] == 24
    assert fit(state, len(shown[0]) + 7)[0] == 0


def test_what_a_start_waits_for_is_shown_in_a_narrow_terminal() -> None:
    state = LineState(done=0, total=1_234_567, time="1:10", waiting_for="cluster resources", facts=("0/4 replicas",))
    shown = list(dict.fromkeys(fit(state, width)[1] for width in range(80, 7, -1)))
    assert shown == [
        "0/1,234,567 0% · 1:10, waiting for cluster resources · 0/4 replicas",
        "0/1,234,567 0% · 1:10, waiting for cluster resources",
        "0% · 1:10, waiting for cluster resources",
        "0% · 1:10, cluster resources",
        "0% · 1:10",
        "0%",
    ]


def test_a_total_that_is_unknown_shows_the_count_alone() -> None:
    assert fit(LineState(done=0, total=None, time="starting"), 80) == (0, "0 · starting")
