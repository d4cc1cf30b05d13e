"""Downloads one file of a model, in ranges at the same time, and computes its checksum."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tirazh.errors import StorageError
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

_RANGE_BYTES = 16 << 20
_THREADS = 8
_HASHED_AT_ONCE = 8 << 20


def download(file: StoredFile, target: Path, storage: Storage) -> str:
    """Write the content of `file` to `target`, which appears as a whole, and return its SHA-256.

    Raises StorageError if the store does not answer for minutes, or the file was changed meanwhile, and OSError for the
    disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming = target.with_name(f".{target.name}.incoming")
    descriptor = os.open(incoming, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        if file.size:
            os.posix_fallocate(descriptor, 0, file.size)
        starts = range(0, file.size, _RANGE_BYTES)
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(partial(_copy_range, file, descriptor, storage), starts))
        if not keep_trying(lambda: storage.is_same(file)):
            raise StorageError(f"{show_uri(file.uri)} was changed while it was fetched; run the same command again")
        os.fsync(descriptor)
    except BaseException:
        incoming.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    digest = sha256_of(incoming)
    incoming.rename(target)
    return digest


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(_HASHED_AT_ONCE):
            digest.update(data)
    return digest.hexdigest()


def is_full(error: OSError) -> bool:
    """Whether the disk has no space left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _copy_range(file: StoredFile, descriptor: int, storage: Storage, start: int) -> None:
    size = min(_RANGE_BYTES, file.size - start)

    def read() -> bytes:
        with storage.open(file.uri) as stream:
            stream.seek(start)
            data = stream.read(size)
        if len(data) != size:
            raise StorageError(f"{show_uri(file.uri)} ends before its listed size of {file.size:,} bytes")
        return data

    view = memoryview(keep_trying(read))
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
