"""Files on disks: listing them, and writing them whole or not at all. Called by `storage.py`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`key` is the path below what the user named (the same wherever the input lies); `version` changes when the
    file does (modification time or entity tag)."""

    uri: str
    key: str
    size: int
    version: str


def is_hidden(key: str) -> bool:
    """Whether readers of a directory pass over this file: a name on its path begins with `_` or `.`."""
    return any(name.startswith(("_", ".")) for name in key.split("/"))


def walk_disk(directory: str) -> list[StoredFile]:
    """Every visible file below `directory`, or `directory` itself, if it is a file; in no order. Raises OSError."""
    status = os.stat(directory)
    if not os.path.isdir(directory):
        return [StoredFile(directory, os.path.basename(directory), status.st_size, str(status.st_mtime_ns))]
    files, waiting = [], [directory]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(("_", ".")):
                    continue
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    status, key = entry.stat(), os.path.relpath(entry.path, directory)
                    files.append(StoredFile(entry.path, key, status.st_size, str(status.st_mtime_ns)))
    return files


def write_disk(path: str, data: bytes) -> None:
    """Write a temporary file beside `path`, make it durable, and rename it. Raises OSError."""
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    # The rename itself must survive a power cut.
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
