"""Files on local disks: their versions, and writing them atomically."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from uuid import uuid4

from tirazh.pipeline.storage.exclusive_rename import rename_without_replacing

logger = logging.getLogger(__name__)

# Some network file systems refuse to open or to sync a directory; the file itself is synced.
_CANNOT_SYNC = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF),
    *(errno.EACCES, errno.EPERM, errno.EISDIR),
}
# The devices that this process has warned about.
_warned: set[int] = set()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A listed file.

    `key` is its path below the directory that the user named, so it does not depend on where the
    input is stored. `version` changes with the file: on a disk the modification and the change time,
    in a store the entity tag or the generation. `size` is in bytes. `partition` are the columns that the
    file's directories stand for, with their values (see `input/hive.py`).
    """

    uri: str
    key: str
    size: int
    version: str
    partition: tuple[tuple[str, str | None], ...] = ()


def disk_version(status: os.stat_result) -> str:
    """The version of a file on a disk: the times of its last modification and of its last change, in nanoseconds.

    `rsync -t`, `cp -p` and tar set the modification time back; nothing sets the change time back. The inode
    number is left out: network mounts number the same file differently on different machines.
    """
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}"


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
    sync_directory(os.path.dirname(path))


def create_on_disk(path: str, data: bytes) -> bool:
    """Like `write_disk`, but return False, without writing, if `path` exists. Raises OSError.

    Of several processes that create one path, on one or several machines, exactly one gets True.
    """
    temporary = _write_beside(path, data)
    try:
        created = _publish(temporary, path)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    if created:
        sync_directory(os.path.dirname(path))
    return created


def move_on_disk(path: str, target: str) -> None:
    """Rename a file, across directories of one file system; it replaces an existing one.

    Does nothing if `path` is gone and `target` exists: an earlier call moved it. Raises OSError.
    """
    _make_directories(os.path.dirname(target))
    try:
        os.replace(path, target)
    except FileNotFoundError:
        if not os.path.exists(target):
            raise
        return
    sync_directory(os.path.dirname(target))
    sync_directory(os.path.dirname(path))


def _publish(temporary: str, path: str) -> bool:
    """Give the finished file `temporary` the name `path` unless that exists; return whether it was given."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS repeats a request whose response was lost, and then finds its own link.
        return os.path.samefile(temporary, path)
    except OSError:  # a file system without hard links
        done = rename_without_replacing(temporary, path)
        return _replace_placeholder(temporary, path) if done is None else done
    return True


def _replace_placeholder(temporary: str, path: str) -> bool:
    """Publish on a file system with neither hard links nor exclusive renames.

    An empty file reserves the name and is replaced by the finished one. So a reader may see an empty file for
    a moment, or until it is removed if this process dies in between, but never a part of the content.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    os.replace(temporary, path)
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
    sync_directory(parent)


def sync_directory(directory: str) -> None:
    """Sync the entries of a directory, so that they survive a power failure, where the file system can."""
    try:
        handle = os.open(directory or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
        _warn_not_synced(directory or ".", error.strerror or "refused")


def _warn_not_synced(directory: str, reason: str) -> None:
    """Warn once for each file system."""
    device = os.stat(directory).st_dev
    if device in _warned:
        return
    _warned.add(device)
    logger.warning(
        "the file system of %s does not sync directories (%s): after a power failure the last files may be missing",
        directory,
        reason,
    )
