"""Jobs of several steps that run in this process."""

from __future__ import annotations

import pytest

from tests.pipeline.steps.in_process import InProcess, run_in_process


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    return run_in_process(monkeypatch)
