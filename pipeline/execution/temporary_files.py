"""Where the Ray that is started on this machine keeps its sockets, logs and objects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError

# Linux: `sun_path` of a UNIX socket has 108 bytes, the last one is 0.
MAX_SOCKET_BYTES = 107
# The longest socket of Ray 2.60 below its directory, for the largest process id.
_SOCKET = "/session_2026-12-31_23-59-59_123456_4194304/sockets/plasma_store"
_FEWEST_FREE_BYTES = 16 << 20
# Ray puts its objects on the disk if this much is not free in shared memory; a job of small parts needs less.
_SMALL_SHARED_MEMORY = 1 << 30
_SHARED_MEMORY = Path("/dev/shm")
_OBJECT_BYTES = 2 << 30
_MIB = 1 << 20


def ray_directories(tell: Callable[[str], None] | None) -> dict[str, Any]:
    """The arguments of `ray.init` about directories: none if Ray's defaults can be used.

    `tell` gets a sentence for every default that is replaced. Raises RequestError if no temporary directory can
    be used.
    """
    say = tell or (lambda text: None)
    default = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    problem = _problem(default)
    options: dict[str, Any] = {}
    directory = default
    if problem:
        directory = _other(default, problem)
        say(f"the temporary directory {default} {problem}; Ray uses {directory}")
        options["_temp_dir"] = str(directory / "ray")
    shared = _free_bytes(_SHARED_MEMORY)
    if shared is None:
        say(f"there is no {_SHARED_MEMORY}: Ray keeps its objects in {directory}, which is slower")
        options |= {"_plasma_directory": str(directory), "object_store_memory": _object_bytes(directory)}
    elif shared < _SMALL_SHARED_MEMORY:
        say(
            f"{_SHARED_MEMORY} has only {shared / _MIB:,.0f} MiB free: Ray keeps its objects in {directory}, which is "
            "slower; in Docker, --shm-size=4g makes it larger"
        )
    return options


def _problem(directory: Path) -> str:
    """Why Ray cannot use a temporary directory, as the end of a sentence; "" if it can."""
    length = len(os.fsencode(f"{directory}/ray{_SOCKET}"))
    if length > MAX_SOCKET_BYTES:
        longest = MAX_SOCKET_BYTES - len(f"/ray{_SOCKET}")
        return f"has a path that is too long for Ray's sockets ({len(os.fsencode(directory))} bytes; at most {longest})"
    if not directory.is_dir():
        return "does not exist"
    if not os.access(directory, os.W_OK | os.X_OK):
        return "cannot be written to"
    free = _free_bytes(directory) or 0
    return f"has only {free / _MIB:,.1f} MiB free" if free < _FEWEST_FREE_BYTES else ""


def _other(default: Path, problem: str) -> Path:
    for name in ("/tmp", "/var/tmp", "/dev/shm"):
        if not _problem(Path(name)):
            return Path(name)
    raise RequestError(
        f"Ray finds no temporary directory: {default} {problem}, and neither /tmp nor /var/tmp can be used; set TMPDIR "
        "to a directory with a short path that can be written to"
    )


def _free_bytes(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def _object_bytes(directory: Path) -> int:
    """Memory of Ray's object store if it is a file in `directory`: at most half of what is free there."""
    return min(_OBJECT_BYTES, (_free_bytes(directory) or 0) // 2)
