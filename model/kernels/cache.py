"""The cache of compiled kernels: where it is, and how processes share it.

A library's name states what it was compiled from and, behind a dot, the checksum of its content.
So a file that a power cut or a full disk damaged is noticed before it is loaded: loading a library
that was cut off can end the process with SIGBUS.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

OFF_SWITCH = "TIRAZH_KERNELS"  # "off" in the environment: run without compiled kernels
_WORKPLACE = "building-"
_LEFTOVER_AGE_S = 24 * 3600.0
_POLL_S = 0.1


def find_library(folder: Path, stem: str) -> Path | None:
    """The cached library `stem`, None if there is none. Damaged ones are removed."""
    for path in sorted(folder.glob(f"{stem}.*.so")):
        with contextlib.suppress(OSError):
            if path.suffixes[-2] == f".{_checksum(path)}":
                return path
            path.unlink()
    return None


def add_library(folder: Path, stem: str, compile_to: Callable[[Path], object]) -> Path:
    """Have `compile_to` write a library and put it into the cache, complete or not at all.

    Raises OSError.
    """
    _remove_leftovers(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_WORKPLACE) as workplace:
        made = Path(workplace) / "made.so"
        compile_to(made)
        target = folder / f"{stem}.{_checksum(made)}.so"
        _flush(made)
        made.replace(target)
        _flush(folder)
    return target


@contextlib.contextmanager
def build_lock(folder: Path, name: str, limit_s: float) -> Iterator[None]:
    """Held by the one process that compiles the kernel `name`; the others wait for it.

    The operating system releases the lock of a process that dies. Where the file system has no
    locks, or a holder takes longer than `limit_s`, each process compiles for itself: that is safe,
    only slower.
    """
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(OSError):
            file = opened.enter_context((folder / f"{name}.lock").open("ab"))
            deadline = time.monotonic() + limit_s
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_POLL_S)
        yield


def cache_folder() -> Path:
    """A directory that only this user can write to, because its contents are executed.

    Below `$XDG_CACHE_HOME` or `~/.cache`; where that is missing or other users could replace it, one
    temporary directory per machine and user. Raises OSError if there is none.
    """
    wanted = _home_cache()
    for folder in (wanted, Path(tempfile.gettempdir()) / f"tirazh-kernels-{os.geteuid()}"):
        if folder is not None and _is_usable(folder):
            return folder
    return _process_folder()


def _home_cache() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification of these variables: relative paths are ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # a user without HOME and without an entry in the password file
            return None
    return Path(base) / "tirazh" / "kernels" if os.path.isabs(base) else None


def _is_usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        real = folder.resolve()
        is_ours = folder.lstat().st_uid == real.stat().st_uid == os.geteuid()
        is_closed = not real.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return is_ours and is_closed and all(map(_is_trusted, real.parents)) and os.access(real, os.W_OK | os.X_OK)
    except OSError:
        return False


def _is_trusted(parent: Path) -> bool:
    """Whether no other user can put another directory in the place of one in `parent`.

    A group may write, because many systems give each user a group of their own.
    """
    info = parent.stat()
    is_open = info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX
    return info.st_uid in (0, os.geteuid()) and not is_open


@functools.cache
def _process_folder() -> Path:
    """A directory of this process alone, removed when it ends."""
    folder = tempfile.mkdtemp(prefix="tirazh-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _flush(path: Path) -> None:
    """Make the content of a file or the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems flush no directories
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove the workplaces of processes that were killed while they compiled."""
    for path in folder.glob(f"{_WORKPLACE}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(path, ignore_errors=True)
