"""The room on the disk of a training: what a checkpoint takes, and the error of a disk that is full. Standard library
only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tirazh.errors import JobError
from tirazh.model.byte_text import bytes_text

# A checkpoint holds each trained weight and two optimizer states in float32.
CHECKPOINT_BYTES_PER_WEIGHT = 12
_FULL = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Return the free bytes of the disk on which `path` lies, or will lie: of its nearest directory that exists."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def explaining_full_disk(folder: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of a full disk inside the block into a JobError that names `folder` and the room on its disk.

    `needed` are the bytes of what was written, where they are known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise JobError(_full_disk(folder, needed)) from error


def _full_disk(folder: Path, needed: int | None) -> str:
    takes = f"a checkpoint takes {bytes_text(needed)}, and " if needed is not None else ""
    return (
        f"the disk of {folder} is full: {takes}{bytes_text(free_bytes(folder))} is free now; make room, then run the "
        "same command to resume from the last checkpoint (a smaller --keep-checkpoints needs less)"
    )
