"""Commands and flags that documents may show before they exist: a test of them is skipped only while one is missing."""

from __future__ import annotations

import pytest

from tirazh.jobs.cli import build_parser


def missing(command: str, *flags: str) -> list[str]:
    """Return the command or those of its flags that `tirazh --help` does not have."""
    _, by_name = build_parser()
    if command not in by_name:
        return [f"tirazh {command}"]
    return [f"tirazh {command} {flag}" for flag in flags if flag not in by_name[command].flags()]


def skip_while_missing(command: str, *flags: str) -> None:
    """Skip the test while the command line has no such command or flag."""
    if names := missing(command, *flags):
        pytest.skip(f"not in this version: {', '.join(names)}")
