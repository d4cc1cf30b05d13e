"""The progress of a job on the screen of a real terminal (tmux), at three widths, with NO_COLOR and TERM=dumb.

Each test writes what it saw to a file in `captures/` below pytest's directory, so that a person can look at it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import REPOSITORY

TMUX = shutil.which("tmux")
pytestmark = pytest.mark.skipif(TMUX is None, reason="tmux is not installed")
PROGRAM = """
import sys, time
from tirazh.jobs.progress import JobProgressDisplay
from tirazh.pipeline.execution.metrics import ProgressEvent
facts = dict(rows_total=728, rows_resumed=0, parts_total=76, prompt_tokens=90_000, completion_tokens=9_000,
             elapsed_s=66.0, replicas_wanted=4)
starting = ProgressEvent(rows_done=0, parts_done=0, error_rows=0, replicas=0, waiting_for="loading the model", **facts)
working = ProgressEvent(rows_done=133, rows_safe=120, parts_done=12, error_rows=3, replicas=4, recent_eta_s=255.0,
                        **facts)
with JobProgressDisplay(None, stream=sys.stderr) as progress:
    for _ in range(400):
        progress.show(starting if sys.argv[1] == "starting" else working)
        time.sleep(0.3)
"""


@pytest.fixture
def server() -> Iterator[str]:
    """The name of a tmux server of this test alone."""
    name = f"tirazh-{uuid4().hex[:8]}"
    yield name
    subprocess.run([str(TMUX), "-L", name, "kill-server"], check=False, capture_output=True)


def capture(server: str, state: str, columns: int, file: Path, **variables: str) -> str:
    """Start the display in a terminal of this width, wait until the screen shows it, and return the screen."""
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8", **variables}
    # tmux sets TERM for its programs, so the command sets its own.
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    command = f"cd {REPOSITORY}; env {assignments} {sys.executable} -c {shlex.quote(PROGRAM)} {state}"
    tmux = [str(TMUX), "-L", server, "-f", "/dev/null"]
    sized = ["-x", str(columns), "-y", "8"]
    ours = ("NO_COLOR", "TMUX", "COLUMNS", "LINES")
    outside = {name: value for name, value in os.environ.items() if name not in ours} | {"LC_ALL": "C.UTF-8"}
    subprocess.run([*tmux, "-u", "new-session", "-d", *sized, command], check=True, env=outside)
    screen, deadline = "", time.monotonic() + 90
    while "%" not in screen and time.monotonic() < deadline:
        time.sleep(0.2)
        shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], check=False, capture_output=True, text=True)
        screen = shown.stdout
    file.parent.mkdir(exist_ok=True)
    file.write_text(screen, encoding="utf-8")
    return screen


SEEN = {
    40: {"working": ["133/728 18%", "4:15 left"], "starting": ["0%", "0:0", "loading the model"]},
    80: {
        "working": ["133/728 18%", "4:15 left", "3 errors", "120 safe", "1,500 tokens/s", "4/4 replicas"],
        "starting": ["0/728 0%", ", loading the model", "0/4 replicas"],
    },
    120: {
        "working": [
            "133/728 18%",
            "4:15 left",
            "3 errors",
            "120 safe",
            "1,500 tokens/s",
            "4/4 replicas",
            "12/76 parts",
        ],
        "starting": ["0/728 0%", ", loading the model", "0/4 replicas"],
    },
}


@pytest.mark.parametrize("columns", SEEN)
@pytest.mark.parametrize("state", ["working", "starting"])
def test_a_terminal_shows_rows_share_and_time(server: str, tmp_path: Path, columns: int, state: str) -> None:
    variables = {"NO_COLOR": "1"} if state == "starting" else {}
    screen = capture(server, state, columns, tmp_path / f"captures/{state}-{columns}.txt", **variables)
    plain = " ".join(screen.split())
    assert [text for text in SEEN[columns][state] if text not in plain] == []
    assert len(screen.strip().splitlines()) == 1
    if variables:
        assert "\x1b[3" not in screen
        assert "\x1b[4" not in screen


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_dumb_terminal_gets_lines_with_rows_share_safe_rows_and_time(
    server: str, tmp_path: Path, columns: int
) -> None:
    file = tmp_path / f"captures/dumb-{columns}.txt"
    screen = capture(server, "working", columns, file, TERM="dumb").replace("\n", "")
    for text in ("Z 133 of 728 rows (18%), 120 safe", "12 of 76 parts", "3 errors", "4:15 left"):
        assert text.replace(" ", "") in screen.replace(" ", "")
