"""Keeps the cache within its size: removes the models that were not used for the longest time."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from tirazh.errors import RequestError, StorageError
from tirazh.pipeline.model_cache.locks import if_unused

DIRECTORY_VARIABLE, SIZE_VARIABLE = "TIRAZH_CACHE", "TIRAZH_CACHE_GIB"
_DEFAULT_GIB = 200.0


def cache_directory() -> Path:
    """The directory of the cache: TIRAZH_CACHE, else ~/.cache/tirazh/models."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    return Path(given).expanduser().absolute() if given else Path.home() / ".cache/tirazh/models"


def cache_bytes() -> int:
    """The most bytes of all models in the cache. Raises RequestError for a TIRAZH_CACHE_GIB that is no number."""
    given = os.environ.get(SIZE_VARIABLE, "")
    try:
        size = float(given) if given else _DEFAULT_GIB
    except ValueError:
        size = -1.0
    if not 0 < size < float("inf"):
        raise RequestError(f"the environment variable {SIZE_VARIABLE} must be a number of GiB above 0, not {given!r}")
    return int(size * 2**30)


def make_space(root: Path, key: str, needed: int, *, uri: str) -> None:
    """Remove models until `needed` more bytes are within the limit and fit on the disk. Models in use stay, and so does
    `key`.

    The limit may be exceeded where all others are in use. Raises StorageError if the disk is too small.
    """
    limit = cache_bytes()
    others = [path for path in root.iterdir() if path.is_dir() and path.name != key]
    total = sum(map(_size, [*others, root / key]))
    for path in sorted(others, key=_last_use):
        if total + needed <= limit and _free(root) > needed:
            break
        size = _size(path)
        with if_unused(use_lock(root, path.name)) as is_unused:
            if is_unused:
                # Without its record no file of it counts, however far the removal comes.
                record(root, path.name).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
                total -= size
    if _free(root) <= needed:
        raise disk_full(root, uri, needed)


def disk_full(root: Path, uri: str, needed: int) -> StorageError:
    """The error about a disk that is too small for a model."""
    return StorageError(
        f"the model {uri} does not fit into the cache {root} on machine {socket.gethostname()}: {_mib(needed)} are "
        f"needed, {_mib(_free(root))} are free; free space there, or set {DIRECTORY_VARIABLE} to a larger disk"
    )


def use_lock(root: Path, key: str) -> Path:
    """The lock file that processes hold which use a model."""
    return root / f"{key}.use"


def record(root: Path, key: str) -> Path:
    """The file that says which files of a model are whole; its time is that of the last use."""
    return root / f"{key}.json"


def _last_use(path: Path) -> float:
    try:
        return record(path.parent, path.name).stat().st_mtime
    except OSError:  # an interrupted download
        return 0.0


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return total


def _free(root: Path) -> int:
    return shutil.disk_usage(root).free


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
