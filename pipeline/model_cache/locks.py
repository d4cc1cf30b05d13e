"""Locks of a model in the cache, between the processes of one machine. The kernel frees those of a dead process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of models that this process uses: open until it ends.
_in_use: dict[Path, int] = {}


def keep_in_use(path: Path) -> None:
    """Hold the lock file at `path` together with others until this process ends. Waits while the model is removed."""
    if path not in _in_use:
        descriptor = _open(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _in_use[path] = descriptor


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` alone inside the block; waits for it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def if_unused(path: Path) -> Iterator[bool]:
    """Hold the lock file at `path` alone inside the block if no process holds it; yields whether that is so."""
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
