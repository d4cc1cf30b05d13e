"""Fixtures of the fuzz tests, and a summary of the inputs that were tried and refused per target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.ending import refused, tried
from tests.fuzz.models import DamagedCopy, copy_damaged, write_models
from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.spec import JobSpec


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if tried:
        counts = ", ".join(
            f"{len(inputs)} {target} ({len(refused[target])} refused)" for target, inputs in tried.items()
        )
        total = sum(map(len, tried.values()))
        terminalreporter.write_line(f"{total} distinct bad inputs tried: {counts}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a valid model directory."""
    return Path(write_tiny_model(tmp_path_factory.mktemp("fuzz") / "model"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return valid model directories, one of each format."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def damaged(models: dict[str, Path], tmp_path: Path) -> DamagedCopy:
    """Return a function that copies a valid model and replaces one file of the copy.

    Example: `damaged("native", "config.json", b"…")` returns the path of the copy.
    """

    def make(kind: str, name: str | None = None, content: bytes = b"") -> Path:
        return copy_damaged(models[kind], tmp_path / "damaged", name, content)

    return make


@pytest.fixture
def job(tiny_model: Path, tmp_path: Path) -> Callable[..., JobSpec]:
    """Return a function that builds a job over `tmp_path/in`; its arguments override settings."""
    (tmp_path / "in").mkdir()

    def make(kind: str = "classify", **overrides: Any) -> JobSpec:
        labels = {"labels": "sport,economics"} if kind == "classify" else {}
        paths = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "model": str(tiny_model)}
        return build_spec(kind, {**paths, **labels, "part_rows": 25, **overrides})

    return make
