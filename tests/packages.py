"""Builds and installs the distribution, and lays out a user's directory whose modules have the names of our folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Names that many projects have, and that a flat layout of the package would share with them.
TRAPS = ("model.py", "jobs.py", "pipeline/__init__.py", "actors/__init__.py")
TRAP_CODE = """import os, pathlib
pathlib.Path({marker!r}).write_text(__file__)
os._exit(77)
"""


def copy_tracked_files(folder: Path) -> Path:
    """Copy the files that git tracks, as they are now, to `folder`; symbolic links stay links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("needs a git checkout: the distribution is built from the tracked files")
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_symlink() or (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name, follow_symlinks=False)
    return folder


def install_backend(folder: Path) -> Path:
    """Install hatchling to `folder`. Skips the test where no package index answers."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=0"]
    done = subprocess.run([*pip, "--target", folder, "hatchling"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs hatchling from a package index: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def build(source: Path, kind: str, output: Path, *, backend: Path) -> Path:
    """Build the "wheel" or the "sdist" of `source` with the hook that pip calls.

    Returns the file.
    """
    code = f"import hatchling.build as backend; print(backend.build_{kind}({str(output)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env=os.environ | environment(backend),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output / done.stdout.split()[-1]


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel without its dependencies to `folder`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder, wheel], capture_output=True, check=True)
    return folder


def write_traps(folder: Path, marker: Path) -> None:
    """Write modules that record their execution in `marker` and end the process."""
    for name in TRAPS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TRAP_CODE.format(marker=str(marker)))


def environment(installed: Path) -> dict[str, str]:
    """Environment variables with which Python finds the package in `installed` before the one of this checkout."""
    return {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "", "RAY_USAGE_STATS_ENABLED": "0"}
