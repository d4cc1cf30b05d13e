"""Calibrating and relabelling a million rows takes less than a minute and less than 1 GB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.relabel.million import measure, write_million
from tirazh.pipeline.output.verify import verify

pytestmark = pytest.mark.slow


def test_a_million_rows_are_relabelled_in_bounded_time_and_memory(tmp_path: Path) -> None:
    output, file = write_million(tmp_path), str(tmp_path / "c.json")
    commands = [
        ["calibrate", output, "--out", file],
        ["relabel", output, "--out", str(tmp_path / "new"), "--calibration", file],
        ["relabel", output, "--out", str(tmp_path / "other"), "--abstain-below", "0.5"],
    ]
    for arguments in commands:
        seconds, peak = measure(*arguments)
        assert seconds < 60
        assert peak < 1_000_000_000
    assert verify(str(tmp_path / "new")).problems == ()
