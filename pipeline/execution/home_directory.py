"""The environment of a user without a usable home directory or without a name.

Containers run with arbitrary user ids (OpenShift), which have no entry in the password file, and HOME unset or `/`.
Ray then finds no place for its token, and libraries find none for their caches.
"""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

_CACHES = {
    "HF_HOME": "huggingface",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "MPLCONFIGDIR": "matplotlib",
}
_TOKEN, _TOKEN_PATH, _AUTH_MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"


def complete_environment(environment: MutableMapping[str, str]) -> None:
    """Set what Ray and the libraries of its workers need and do not find. What is set already stays.

    Without a home directory, HOME becomes a private temporary directory, one per user. With one that cannot be
    written to, only the caches and Ray's token go there, as it may still hold credentials to read. Raises OSError
    if there is no temporary directory.
    """
    if not _has_name():
        environment["USER"] = f"uid{os.geteuid()}"
    home = _home()
    if home is None:
        environment["HOME"] = str(private_directory())
        return
    if _can_be_written(home):
        return
    private = private_directory()
    if not _can_be_written(home / ".cache"):
        for name, folder in _CACHES.items():
            environment.setdefault(name, str(private / folder))
    is_protected = environment.get(_AUTH_MODE, "token").lower() == "token"
    if is_protected and not environment.get(_TOKEN) and not environment.get(_TOKEN_PATH):
        token = home / ".ray" / "auth_token"
        if not os.access(token, os.R_OK) and not _can_be_written(token.parent):
            environment[_TOKEN_PATH] = str(_write_token(private / "auth_token"))


def private_directory() -> Path:
    """A temporary directory that only this user can read and write: the same for all runs on this machine.

    Raises OSError.
    """
    folder = Path(tempfile.gettempdir()) / f"tirazh-home-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    # Another user may have made a directory of this name, to read or replace what is put there.
    return folder if is_ours else Path(tempfile.mkdtemp(prefix="tirazh-home-"))


def _home() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() and home.is_dir() else None


def _can_be_written(directory: Path) -> bool:
    """Whether a file can be made there. What `os.access` says is not true for root and for network disks."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _has_name() -> bool:
    try:
        getpass.getuser()
        return True
    except (KeyError, OSError):
        return False


def _write_token(path: Path) -> Path:
    """Write a token for the Ray that is started on this machine, unless there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return path
