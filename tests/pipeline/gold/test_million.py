"""Evaluating a million rows takes less than a minute and less than 1 GB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.gold.million import measure, write_million

pytestmark = pytest.mark.slow


def test_a_million_rows_are_evaluated_in_bounded_time_and_memory(tmp_path: Path) -> None:
    seconds, peak = measure(*write_million(tmp_path))
    assert seconds < 60
    assert peak < 1_000_000_000
