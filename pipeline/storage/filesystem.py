"""Lists, reads and writes files on disks and in object stores. The only module that uses fsspec.

Writes are atomic: on a disk by renaming a finished temporary file, in an object store by one completed
upload. Every failure is one sentence (`storage/errors.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from tirazh.errors import RequestError, StorageError
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.disk import (
    StoredFile,
    create_on_disk,
    disk_version,
    is_hidden,
    move_on_disk,
    walk_disk,
    write_disk,
)
from tirazh.pipeline.storage.errors import one_sentence, show_uri

T = TypeVar("T")

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
# Other names of a scheme, for the same objects.
_ALIASES = {"s3a": "s3", "gcs": "gs"}
_SHOWN_SCHEMES = "local paths, s3://, gs:// and az://"
_CONNECT_TIMEOUT_S = 3
_READ_TIMEOUT_S = 30
_CONTACT_TIMEOUT_S = 20
_UPLOAD_TIMEOUT_S = 30.0
_SLOWEST_UPLOAD = 512 << 10  # bytes per second
_MEMORY_LOCK = threading.Lock()
_S3_ATTEMPTS = 2  # of s3fs, with up to 3 attempts of botocore each: a dead address fails within 20 s


def full_uri(uri: str) -> str:
    """Normalise `uri` so that it is valid in every process of a cluster: local paths become absolute.

    A scheme with two names gets one of them, and a slash at the end is removed.
    Raises RequestError for an unknown scheme, which would otherwise be taken for a relative path, and for an
    address without a bucket.
    """
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    if not is_remote(uri) and (match := re.match(r"([a-zA-Z][\w+.-]*)://", uri)):
        raise RequestError(f"{show_uri(uri)}: the scheme {match[1]}:// is not supported; use {_SHOWN_SCHEMES}")
    if not is_remote(uri):
        return os.path.abspath(os.path.expanduser(uri))
    scheme, _, rest = uri.partition("://")
    if not rest.strip("/"):
        raise RequestError(f"{uri} names no bucket; give an address such as {scheme}://bucket/path")
    return f"{_ALIASES.get(scheme, scheme)}://{rest.rstrip('/')}"


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
        """List the files below `directory`, or `directory` itself if it is a file, unsorted.

        Files and directories whose names begin with `_` or `.` are skipped. Raises InputError if
        `directory` does not exist.
        """
        with one_sentence(directory, "read"):
            return walk_disk(directory) if not is_remote(directory) else self._walk_store(directory)

    def glob(self, pattern: str) -> list[str]:
        """The URIs that match `pattern`."""
        with one_sentence(pattern, "read"):
            filesystem = self._filesystem(pattern)
            return [self._with_scheme(pattern, path) for path in filesystem.glob(pattern)]

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
                found = filesystem.ls(directory, detail=True)
            except FileNotFoundError as error:
                if is_remote(directory) and "bucket" in str(error).lower():
                    raise
                return {}
            return {
                entry["name"].rstrip("/").rpartition("/")[2]: entry.get("size") or 0
                for entry in found
                if entry["type"] == entry_type and entry["name"].rstrip("/") != filesystem._strip_protocol(directory)
            }

    def is_same(self, file: StoredFile) -> bool:
        """Whether `file` still has the size and the version that it was listed with.

        A store that gives no version, in the listing or now, is asked for the size alone.
        """
        with one_sentence(file.uri, "read"):
            if not is_remote(file.uri):
                status = os.stat(file.uri)
                return (status.st_size, disk_version(status)) == (file.size, file.version)
            info = self._filesystem(file.uri).info(file.uri)
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
                with self._filesystem(uri).open(uri, "rb", cache_type="none") as file:
                    yield file

    def read(self, uri: str) -> bytes:
        """Read a whole file."""
        with one_sentence(uri, "read"):
            return bytes(self._filesystem(uri).cat_file(uri))

    def read_tail(self, file: StoredFile, size: int) -> bytes:
        """Read the last `size` bytes of `file`, or all of a smaller file, in one request."""
        with one_sentence(file.uri, "read"):
            start = max(0, file.size - size)
            if is_remote(file.uri):
                return bytes(self._filesystem(file.uri).cat_file(file.uri, start=start, end=file.size))
            with open(file.uri, "rb") as opened:
                opened.seek(start)
                return opened.read()

    def write(self, uri: str, data: bytes) -> None:
        """Write a file atomically; it replaces an existing one."""
        with one_sentence(uri, "write"):
            if is_remote(uri):
                _upload(self._filesystem(uri), uri, data)
            else:
                write_disk(uri, data)

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
                if not filesystem.exists(target):
                    raise
                return
            filesystem.rm_file(uri)

    def remove(self, uri: str, *, recursive: bool = False) -> None:
        """Delete a file, or with `recursive` a directory. Does nothing if it does not exist."""
        with one_sentence(uri, "write"):
            try:
                if not is_remote(uri) and recursive:
                    shutil.rmtree(uri)
                else:
                    self._filesystem(uri).rm(uri, recursive=recursive)
            except FileNotFoundError:
                return

    def _walk_store(self, directory: str) -> list[StoredFile]:
        filesystem = self._filesystem(directory)
        _check_connection(filesystem, directory)
        found = filesystem.find(directory, detail=True)
        if not found:
            raise FileNotFoundError(directory)
        files = []
        for path, info in found.items():
            uri = self._with_scheme(directory, path)
            key = uri.removeprefix(directory).lstrip("/") or uri.rpartition("/")[2]
            if not is_hidden(key) and not path.endswith("/"):
                files.append(StoredFile(uri, key, info["size"] or 0, _version(info)))
        return files

    def _with_scheme(self, like: str, path: str) -> str:
        scheme, _, _ = like.partition("://")
        return f"{scheme}://{path.lstrip('/')}" if is_remote(like) else path

    def _filesystem(self, uri: str) -> Any:
        if not is_remote(uri):
            return fsspec.filesystem("file")
        scheme = uri.partition("://")[0]
        # fsspec caches listings by default, which would hide parts that other processes write.
        filesystem = fsspec.filesystem(scheme, use_listings_cache=False, **self._options(scheme))
        if scheme in ("s3", "s3a"):
            filesystem.retries = _S3_ATTEMPTS
        return filesystem

    def _options(self, scheme: str) -> dict[str, Any]:
        if scheme in ("s3", "s3a"):
            return _s3_options(self.endpoint_url)
        if scheme in ("gs", "gcs"):
            # gcsfs probes for a type of bucket that is not used here; without gRPC access the probe
            # hangs for a minute.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            return {"endpoint_url": self.endpoint_url} if self.endpoint_url else {}
        if scheme in ("az", "abfs", "abfss"):
            return _azure_options(self.endpoint_url)
        return {}


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


def _check_connection(filesystem: Any, uri: str) -> None:
    """Send one small request with a deadline.

    The libraries retry a server that does not respond for minutes, each in its own way. Any response is
    accepted; the call that follows reports problems with `uri` itself.
    """
    if isinstance(filesystem, AsyncFileSystem):
        sync(filesystem.loop, filesystem._exists, join(uri, ".contact"), timeout=_CONTACT_TIMEOUT_S)


def _s3_options(endpoint_url: str | None) -> dict[str, Any]:
    # botocore and s3fs both retry. By default an unreachable address fails only after minutes, as
    # the retries multiply.
    config = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 3, "mode": "standard"},
        "request_checksum_calculation": "when_required",  # older S3-compatible servers refuse checksum trailers
        "response_checksum_validation": "when_required",
    }
    return {"config_kwargs": config} | ({"endpoint_url": endpoint_url} if endpoint_url else {})


def _azure_options(endpoint_url: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"connection_timeout": _CONNECT_TIMEOUT_S, "read_timeout": _READ_TIMEOUT_S}
    account, key = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"), os.environ.get("AZURE_STORAGE_ACCOUNT_KEY")
    if endpoint_url and account and key and "AZURE_STORAGE_CONNECTION_STRING" not in os.environ:
        scheme = urlsplit(endpoint_url).scheme
        options["connection_string"] = (
            f"DefaultEndpointsProtocol={scheme};AccountName={account};AccountKey={key};BlobEndpoint={endpoint_url};"
        )
    return options


def _upload(filesystem: Any, uri: str, data: bytes, **options: Any) -> None:
    """Upload a file in one piece or not at all, within a time that depends on its size.

    A request that is given up must end soon: a run that has lost its output may have sent it.
    """
    if not isinstance(filesystem, AsyncFileSystem):
        filesystem.pipe_file(uri, data, **options)
        return
    timeout_s = _UPLOAD_TIMEOUT_S + len(data) / _SLOWEST_UPLOAD
    sync(filesystem.loop, filesystem._pipe_file, uri, data, timeout=timeout_s, **options)


def _copy(filesystem: Any, uri: str, target: str) -> None:
    """Copy a file inside its store, without downloading it where the store can."""
    if uri.startswith(("az://", "abfs://", "abfss://")):  # adlfs starts a copy and does not wait for its end
        _upload(filesystem, target, bytes(filesystem.cat_file(uri)))
    else:
        filesystem.cp_file(uri, target)


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
