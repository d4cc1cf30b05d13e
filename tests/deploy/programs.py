"""Small programs that tests put on the PATH."""

from __future__ import annotations

from pathlib import Path


def write_program(path: Path, body: str) -> Path:
    """Write an executable shell script. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
    path.chmod(0o755)
    return path
