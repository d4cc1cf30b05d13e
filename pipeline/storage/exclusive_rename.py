"""Renames a file unless the new name exists, by the system call that Linux and macOS have for it.

It is for file systems without hard links, such as FAT and some network mounts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # Linux: linux/fs.h
_RENAME_EXCL = 4  # macOS: sys/stdio.h


def rename_without_replacing(path: str, target: str) -> bool | None:
    """Rename `path` unless `target` exists; return whether it was renamed.

    Returns None if the system or the file system cannot do that. Raises OSError for other failures.
    """
    library = ctypes.CDLL(None, use_errno=True)
    old, new = os.fsencode(path), os.fsencode(target)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(old, new, _RENAME_EXCL)
        else:
            failed = library.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE)
    except AttributeError:  # a C library without this function
        return None
    if not failed:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):
        return None
    raise OSError(number, os.strerror(number), target)
