"""Files on local disks: listing them, and writing them atomically."""

from __future__ import annotations

import os
from dataclasses import dataclass
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A listed file.

    `key` is its path below the directory that the user named, so it does not depend on where the
    input is stored. `version` changes with the file: the modification time or the entity tag.
    `size` is in bytes.
    """

    uri: str
    key: str
    size: int
    version: str


def is_hidden(key: str) -> bool:
    """Whether readers of a directory skip this file: a name on its path begins with `_` or `.`."""
    return any(name.startswith(("_", ".")) for name in key.split("/"))


def walk_disk(directory: str) -> list[StoredFile]:
    """List the visible files below `directory`, or `directory` itself if it is a file, unsorted.

    Raises OSError.
    """
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
    """Write a temporary file beside `path`, sync it to disk and rename it. Raises OSError."""
    # In the same directory, because a rename is atomic only within a file system.
    temporary = _write_beside(path, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # The rename must survive a power failure.
    _sync_directory(os.path.dirname(path))


def create_on_disk(path: str, data: bytes) -> bool:
    """Like `write_disk`, but return False, without writing, if `path` exists. Raises OSError."""
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: still exclusive, but the file is visible while it is written
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
    """Write `data` to a hidden file in the directory of `path`, sync it and return its path.

    If that fails, no file is left behind.
    """
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
    """Create `directory` and its parents, and sync their entries, so that they survive a power failure."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    if parent != directory:
        _make_directories(parent)
    os.makedirs(directory, exist_ok=True)
    _sync_directory(parent)


def _sync_directory(directory: str) -> None:
    handle = os.open(directory or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
