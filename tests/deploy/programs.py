"""Small programs that tests put on the PATH, and environments with other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def write_program(path: Path, body: str) -> Path:
    """Write an executable shell script. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
    path.chmod(0o755)
    return path


def venv_with(requirement: str, folders: pytest.TempPathFactory) -> Path:
    """Install a package into an environment of its own, without tirazh. Returns its Python.

    TIRAZH_TEST_VENVS names a directory in which environments are kept for the next run. Skips where the package
    cannot be installed.
    """
    kept = os.environ.get("TIRAZH_TEST_VENVS")
    folder = (Path(kept) if kept else folders.mktemp("venvs")) / requirement
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        subprocess.run([sys._base_executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs {requirement}, which pip cannot install here: {done.stderr.splitlines()[-1:]}")
        (folder / "complete").touch()
    return python
