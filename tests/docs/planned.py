"""Commands and flags that documents may show before they exist: a test of them is skipped only while one is missing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tirazh.jobs.cli import build_parser

PLANNED = ("--set", "--max-age", "--fail-on", "--price-per-hour", "--append", "--key", "--retry-failed")
COMMANDS = ("history", "prune")


def missing(command: str, *flags: str) -> list[str]:
    """Return the command or those of its flags that `tirazh --help` does not have."""
    _, by_name = build_parser()
    if command not in by_name and command in COMMANDS:
        return [f"tirazh {command}"]
    if command not in by_name:
        return []
    return [f"tirazh {command} {flag}" for flag in flags if flag not in by_name[command].flags()]


def skip_while_missing(command: str, *flags: str) -> None:
    """Skip the test while the command line has no such command or flag. Unknown commands are passed over."""
    if names := missing(command, *flags):
        pytest.skip(f"not in this version: {', '.join(names)}")


def planned_flags(words: Sequence[str]) -> list[str]:
    """Return the flags of a command line, without the command's name, that a version may still lack."""
    flags = [flag for flag in PLANNED if flag in words]
    if words[0] == "report" and "--against" in words:  # several outputs after --against came with it
        flags.append("--fail-on")
    return flags
