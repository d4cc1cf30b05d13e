"""Prints how many bad inputs were tried on what, and how many were refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.ending import refused, tried
from tests.system.tiny_model import write_tiny_model


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if tried:
        each = ", ".join(f"{len(inputs)} {target} ({len(refused[target])} refused)" for target, inputs in tried.items())
        total = sum(map(len, tried.values()))
        terminalreporter.write_line(f"{total} distinct bad inputs tried: {each}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that is in order."""
    return Path(write_tiny_model(tmp_path_factory.mktemp("fuzz") / "model"))
