"""Lists, reads and writes files on disks and in object stores. The only module that uses fsspec.

Writes are atomic: on a disk by renaming a finished temporary file, in an object store by one completed
upload. Every failure is one sentence (`storage/errors.py`).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from tirazh.errors import StorageError
from tirazh.pipeline.storage.addresses import AS_ANONYMOUS, SCHEMES, local_path, store_address
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.disk import (
    StoredFile,
    create_on_disk,
    disk_version,
    move_on_disk,
    write_disk,
)
from tirazh.pipeline.storage.errors import is_bucket_missing, one_sentence
from tirazh.pipeline.storage.listing import (
    Listing,
    key_below,
    list_disk,
    match_disk,
    select_below,
    select_matching,
)
from tirazh.pipeline.storage.options import store_options
from tirazh.pipeline.storage.patterns import Pattern, has_wildcard

T = TypeVar("T")

_CONTACT_TIMEOUT_S = 20
_UPLOAD_TIMEOUT_S = 30.0
_SLOWEST_UPLOAD = 512 << 10  # bytes per second
_MEMORY_LOCK = threading.Lock()
_S3_ATTEMPTS = 2  # of s3fs, with up to 3 attempts of botocore each: a dead address fails within 20 s


def full_uri(uri: str) -> str:
    """Normalise `uri` so that it is valid in every process of a cluster: local paths become absolute.

    A scheme with two names gets one of them, in lower case, and a slash at the end is removed. Raises RequestError
    for an unknown scheme, which would otherwise be taken for a relative path, and for an address without a bucket.
    """
    path = local_path(uri)
    return path if path is not None else store_address(uri)


def is_remote(uri: str) -> bool:
    """Whether `uri` is in an object store."""
    return uri.partition("://")[0] in SCHEMES and "://" in uri


def join(directory: str, *names: str) -> str:
    """Join `directory/name/...`, on disks and in object stores."""
    return "/".join((directory.rstrip("/"), *names))


@dataclass(frozen=True, slots=True)
class Storage:
    """Access to files by URI.

    Instances are cheap to make and to send to other processes. Connections are opened on first use and
    shared within a process.
    """

    endpoint_url: str | None = None

    def walk(self, directory: str) -> list[StoredFile]:
        """The files of `list_below`."""
        return self.list_below(directory).files

    def list_below(self, directory: str) -> Listing:
        """List the visible files below `directory`, or `directory` itself if it is a file.

        Files and directories whose names begin with `_` or `.` are skipped. Raises InputError if
        `directory` does not exist.
        """
        with one_sentence(directory, "read"):
            if not is_remote(directory):
                return list_disk(directory)
            found = self._find(directory)
            if not found:
                raise FileNotFoundError(directory)
            return select_below(directory, found)

    def list_matching(self, pattern: Pattern) -> Listing:
        """List the files that `pattern` matches, and the visible ones below directories that it matches.

        Takes one request per page of the directory before the first wildcard, of the names that begin like the
        pattern, whatever the number of matches. Without a match the listing is empty.
        """
        with one_sentence(pattern.text, "read"):
            if is_remote(pattern.text):
                return select_matching(pattern, self._find(pattern.base, pattern.beginning))
            return match_disk(pattern)

    def names_in(self, directory: str) -> list[str]:
        """The names of the files directly in `directory`; empty if it does not exist.

        In a store it takes one request without any check of the connection, which an earlier call has made.
        """
        with one_sentence(directory, "read"):
            if not is_remote(directory):
                return os.listdir(directory) if os.path.isdir(directory) else []
            parent, _, name = directory.rpartition("/")
            found = self._find(parent, f"{name}/", is_known=True)
            names = (file.uri.removeprefix(f"{directory}/") for file in found)
            return [name for name in names if "/" not in name]

    def names(self, directory: str) -> dict[str, int]:
        """Name → size in bytes of the files directly in `directory`; empty if it does not exist."""
        return self._list(directory, "file")

    def directories(self, directory: str) -> set[str]:
        """The names of the directories directly in `directory`; empty if it does not exist."""
        return set(self._list(directory, "directory"))

    def _list(self, directory: str, entry_type: str) -> dict[str, int]:
        with one_sentence(directory, "write"):
            filesystem = self._filesystem(directory)
            _check_connection(filesystem, directory)
            try:
                found = filesystem.ls(_path(directory), detail=True)
            except FileNotFoundError as error:
                if is_bucket_missing(error, _path(directory)):
                    raise
                return {}
            return {
                entry["name"].rstrip("/").rpartition("/")[2]: entry.get("size") or 0
                for entry in found
                if entry["type"] == entry_type
                and entry["name"].rstrip("/") != filesystem._strip_protocol(_path(directory))
            }

    def is_same(self, file: StoredFile) -> bool:
        """Whether `file` still has the size and the version that it was listed with.

        A store that gives no version, in the listing or now, is asked for the size alone.
        """
        with one_sentence(file.uri, "read"):
            if not is_remote(file.uri):
                status = os.stat(file.uri)
                return (status.st_size, disk_version(status)) == (file.size, file.version)
            info = self._filesystem(file.uri).info(_path(file.uri))
            versions = _versions(info)
            return info["size"] == file.size and (not versions or not file.version or file.version in versions)

    @contextmanager
    def open(self, uri: str) -> Iterator[IO[bytes]]:
        """Open a file for random reads."""
        with one_sentence(uri, "read"):
            if not is_remote(uri):
                with open(uri, "rb") as file:
                    yield file
            else:
                # No cache: the Parquet reader interleaves reads of several columns and buffers each
                # of them.
                with self._filesystem(uri).open(_path(uri), "rb", cache_type="none") as file:
                    yield file

    def read(self, uri: str) -> bytes:
        """Read a whole file."""
        with one_sentence(uri, "read"):
            return bytes(self._filesystem(uri).cat_file(_path(uri)))

    def read_head(self, file: StoredFile, size: int) -> bytes:
        """Read the first `size` bytes of `file`, or all of a smaller file, in one request."""
        return self._read_range(file, 0, min(size, file.size))

    def read_tail(self, file: StoredFile, size: int) -> bytes:
        """Read the last `size` bytes of `file`, or all of a smaller file, in one request."""
        return self._read_range(file, max(0, file.size - size), file.size)

    def _read_range(self, file: StoredFile, start: int, stop: int) -> bytes:
        with one_sentence(file.uri, "read"):
            if is_remote(file.uri):
                return bytes(self._filesystem(file.uri).cat_file(_path(file.uri), start=start, end=stop))
            with open(file.uri, "rb") as opened:
                opened.seek(start)
                return opened.read(stop - start)

    def write(self, uri: str, data: bytes) -> None:
        """Write a file atomically; it replaces an existing one."""
        with one_sentence(uri, "write"):
            if is_remote(uri):
                _upload(self._filesystem(uri), uri, data)
            else:
                write_disk(uri, data)

    def upload(self, path: str, uri: str) -> None:
        """Write the file `path` of this machine to a store, in one piece or not at all; it replaces an existing one.

        A large file goes in several requests, which take a few parts of it into memory.
        """
        with one_sentence(uri, "write"):
            filesystem = self._filesystem(uri)
            if not isinstance(filesystem, AsyncFileSystem):
                filesystem.put_file(path, _path(uri))
                return
            timeout_s = _UPLOAD_TIMEOUT_S + os.path.getsize(path) / _SLOWEST_UPLOAD
            sync(filesystem.loop, filesystem._put_file, path, _path(uri), timeout=timeout_s)

    def create(self, uri: str, data: bytes) -> bool:
        """Write a file atomically unless it exists; return whether it was written.

        Of several callers, on one or several machines, exactly one gets True. If the response to an upload is
        lost, the client library repeats it and finds its own file, so a caller that gets False reads the file
        back to see whose it is. A server without conditional uploads replaces an existing file.
        """
        with one_sentence(uri, "write"):
            if not is_remote(uri):
                return create_on_disk(uri, data)
            filesystem = self._filesystem(uri)
            try:
                # fsspec's memory file system looks for the file and stores it in two steps.
                with _MEMORY_LOCK if uri.startswith("memory://") else nullcontext():
                    _upload(filesystem, uri, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if _s3_code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
            return True

    def move(self, uri: str, target: str) -> None:
        """Move a file within one disk or store; it replaces an existing one.

        On a disk it is a rename. In a store the target is written completely before `uri` is removed. It may be
        repeated after an interruption: it does nothing if `uri` is gone and `target` exists.
        """
        with one_sentence(uri, "write"):
            if not is_remote(uri):
                move_on_disk(uri, target)
                return
            filesystem = self._filesystem(uri)
            try:
                _copy(filesystem, uri, target)
            except FileNotFoundError:
                if not filesystem.exists(_path(target)):
                    raise
                return
            filesystem.rm_file(_path(uri))

    def remove(self, uri: str, *, recursive: bool = False) -> None:
        """Delete a file, or with `recursive` a directory. Does nothing if it does not exist."""
        with one_sentence(uri, "write"):
            try:
                if not is_remote(uri) and recursive:
                    shutil.rmtree(uri)
                elif not recursive:
                    self._filesystem(uri).rm_file(_path(uri))
                elif not has_wildcard(uri):
                    self._filesystem(uri).rm(_path(uri), recursive=True)
                else:  # fsspec would remove what the name matches, taken for a pattern
                    for file in self._find(uri):
                        self._filesystem(uri).rm_file(_path(file.uri))
            except FileNotFoundError:
                return

    def _find(self, directory: str, beginning: str = "", *, is_known: bool = False) -> list[StoredFile]:
        """All files in a store whose paths below `directory` begin with `beginning`, or `directory` if it is a file.

        `is_known` says that the connection was checked before.
        """
        filesystem = self._filesystem(directory)
        if not is_known:
            _check_connection(filesystem, directory)
        found = filesystem.find(_path(directory), detail=True, **({"prefix": beginning} if beginning else {}))
        if isinstance(found, list):  # adlfs answers so for a single file
            found = {path: filesystem.info(path) for path in found}
        files = []
        for path, info in found.items():
            uri = _address(path, directory)
            is_wanted = uri == directory or uri.startswith(join(directory, beginning))
            # Programs that need directories in a store make empty objects for them.
            is_marker = path.endswith(("/", "_$folder$")) or info.get("type") == "directory"
            if is_wanted and not is_marker:
                files.append(StoredFile(uri, key_below(directory, uri), info["size"] or 0, _version(info)))
        return files

    def _filesystem(self, uri: str) -> Any:
        if not is_remote(uri):
            return fsspec.filesystem("file")
        scheme = uri.partition("://")[0]
        # fsspec caches listings by default, which would hide parts that other processes write.
        filesystem = fsspec.filesystem(scheme, use_listings_cache=False, **store_options(uri, self.endpoint_url))
        if scheme == "s3":
            filesystem.retries = _S3_ATTEMPTS
        return filesystem


def keep_trying(action: Callable[[], T], *, for_s: float = 180.0) -> T:
    """Call `action` until it does not raise StorageError, for at most `for_s` seconds, and return its result.

    A long job thus survives a short outage of the storage. `action` must be idempotent.
    """
    deadline, wait_s = CLOCK.monotonic() + for_s, 1.0
    while True:
        try:
            return action()
        except StorageError:
            if CLOCK.monotonic() + wait_s > deadline:
                raise
        CLOCK.sleep(wait_s)
        wait_s = min(wait_s * 2, 30.0)


def _path(uri: str) -> str:
    """`uri` as fsspec takes it: without the name that asks for access without credentials."""
    return uri.replace(f"://{AS_ANONYMOUS}", "://", 1) if uri.startswith(("s3://", "gs://")) else uri


def _address(path: str, like: str) -> str:
    """The URI of a path that fsspec has found below the URI `like`."""
    scheme = like.partition("://")[0]
    return f"{scheme}://{AS_ANONYMOUS if _path(like) != like else ''}{path.lstrip('/')}"


def _check_connection(filesystem: Any, uri: str) -> None:
    """Send one small request with a deadline.

    The libraries retry a server that does not respond for minutes, each in its own way. Any response is
    accepted; the call that follows reports problems with `uri` itself.
    """
    if isinstance(filesystem, AsyncFileSystem):
        sync(filesystem.loop, filesystem._exists, join(_path(uri), ".contact"), timeout=_CONTACT_TIMEOUT_S)


def _upload(filesystem: Any, uri: str, data: bytes, **options: Any) -> None:
    """Upload a file in one piece or not at all, within a time that depends on its size.

    A request that is given up must end soon: a run that has lost its output may have sent it.
    """
    if not isinstance(filesystem, AsyncFileSystem):
        filesystem.pipe_file(_path(uri), data, **options)
        return
    timeout_s = _UPLOAD_TIMEOUT_S + len(data) / _SLOWEST_UPLOAD
    sync(filesystem.loop, filesystem._pipe_file, _path(uri), data, timeout=timeout_s, **options)


def _copy(filesystem: Any, uri: str, target: str) -> None:
    """Copy a file inside its store, without downloading it where the store can."""
    if uri.startswith(("az://", "abfs://", "abfss://")):  # adlfs starts a copy and does not wait for its end
        _upload(filesystem, target, bytes(filesystem.cat_file(_path(uri))))
    else:
        filesystem.cp_file(_path(uri), _path(target))


def _s3_code(error: OSError) -> str | None:
    """The error code in the response of S3 that s3fs turned into `error`.

    An object that exists is PreconditionFailed (412). ConditionalRequestConflict (409) is not: another upload or
    a removal runs at this moment, and the request has to be repeated.
    """
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return None if code is None else str(code)


def _version(info: dict[str, Any]) -> str:
    return next(iter(_versions(info)), "")


def _versions(info: dict[str, Any]) -> list[str]:
    """The values in a file's description that change with its content, the most exact one first."""
    names = ("ETag", "generation", "etag", "md5Hash", "LastModified", "last_modified", "created")
    found = [info[name] for name in names if info.get(name)]
    # The listing and the description of one file may give its time in two forms.
    times = [value.timestamp() if isinstance(value, datetime) else value for value in found]
    return [str(value).strip('"') for value in times]
