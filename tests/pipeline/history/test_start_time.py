"""The start of the process, from which the wall time of a command counts."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.conftest import REPOSITORY

PROGRAM = """
import time
time.sleep(1)
from tirazh.pipeline.history.start_time import process_start
print(process_start())
"""


def test_the_start_of_the_process_is_found() -> None:
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    start = float(done.stdout)
    # The kernel counts in hundredths of a second.
    assert before - 0.1 <= start <= time.monotonic() - 0.9
