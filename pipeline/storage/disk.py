"""Files on disks: listing them, and writing them whole or not at all. Called by `storage/filesystem.py`."""

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
    temporary = _write_beside(path, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # The rename itself must survive a power cut.
    _make_durable(os.path.dirname(path))


def create_on_disk(path: str, data: bytes) -> bool:
    """Like `write_disk`, but False, and nothing done, when something is there. Raises OSError."""
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: exclusive, but seen half written for a moment
        return _create_in_place(path, data)
    finally:
        os.unlink(temporary)
    return True


def _create_in_place(path: str, data: bytes) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with open(handle, "wb") as file:
        file.write(data)
    return True


def _write_beside(path: str, data: bytes) -> str:
    """The path of a hidden, durable file with `data` in the directory of `path`; nothing is left when it fails."""
    directory, name = os.path.split(path)
    _make_directories(directory)
    temporary = os.path.join(directory, f".{name}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary


def _make_directories(directory: str) -> None:
    """Make what is missing of `directory`, so that its entry survives a power cut too."""
    if os.path.isdir(directory):
        return
    above = os.path.dirname(directory)
    if above != directory:
        _make_directories(above)
    os.makedirs(directory, exist_ok=True)
    _make_durable(above)


def _make_durable(directory: str) -> None:
    handle = os.open(directory or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
