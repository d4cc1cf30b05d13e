"""The only file that knows fsspec: listing, reading and writing whole files, on disks and in object stores.

A file appears under its name whole or not at all: on a disk by renaming a finished temporary file, in an object store
by one completed upload. Every failure is one sentence (`storage/errors.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from tirazh.errors import RequestError, StorageError
from tirazh.pipeline.storage.disk import StoredFile, create_on_disk, is_hidden, walk_disk, write_disk
from tirazh.pipeline.storage.errors import one_sentence, show_uri

T = TypeVar("T")

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
_SHOWN_SCHEMES = "local paths, s3://, gs:// and az://"
_CONNECT_TIMEOUT_S = 3
_READ_TIMEOUT_S = 30
_CONTACT_TIMEOUT_S = 20
_S3_ATTEMPTS = 2  # of s3fs, each made of up to 3 of botocore's: a dead address is told within 20 s


def full_uri(uri: str) -> str:
    """`uri` as every process of a cluster understands it: local paths become absolute. Raises RequestError for the
    address of something that is no storage of ours: taken as a path, it would make directories of that name."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    if not is_remote(uri) and (match := re.match(r"([a-zA-Z][\w+.-]*)://", uri)):
        raise RequestError(
            f"{show_uri(uri)}: {match[1]}:// is no storage that is read here; there are {_SHOWN_SCHEMES}"
        )
    return uri.rstrip("/") if is_remote(uri) else os.path.abspath(os.path.expanduser(uri))


def is_remote(uri: str) -> bool:
    """Whether `uri` lies in an object store."""
    return uri.partition("://")[0] in SCHEMES and "://" in uri


def join(directory: str, *names: str) -> str:
    """`directory/name/...`, for disks and object stores alike."""
    return "/".join((directory.rstrip("/"), *names))


@dataclass(frozen=True, slots=True)
class Storage:
    """Files by URI. Cheap to make and to send; connections are made on first use and shared by the process."""

    endpoint_url: str | None = None

    def walk(self, directory: str) -> list[StoredFile]:
        """Every file below `directory` (or `directory` itself, if it is a file), in no order. Names that begin with
        `_` or `.` are skipped, directories of such a name too. Raises InputError when nothing is there."""
        with one_sentence(directory, "read"):
            return walk_disk(directory) if not is_remote(directory) else self._walk_store(directory)

    def glob(self, pattern: str) -> list[str]:
        """URIs that match `pattern`."""
        with one_sentence(pattern, "read"):
            filesystem = self._filesystem(pattern)
            return [self._with_scheme(pattern, path) for path in filesystem.glob(pattern)]

    def names(self, directory: str) -> dict[str, int]:
        """Name → size of the files directly in `directory`; empty when it does not exist."""
        return self._list(directory, "file")

    def directories(self, directory: str) -> set[str]:
        """Names of the directories directly in `directory`; empty when it does not exist."""
        return set(self._list(directory, "directory"))

    def _list(self, directory: str, kind: str) -> dict[str, int]:
        with one_sentence(directory, "write"):
            filesystem = self._filesystem(directory)
            _make_contact(filesystem, directory)
            try:
                found = filesystem.ls(directory, detail=True)
            except FileNotFoundError as error:
                if is_remote(directory) and "bucket" in str(error).lower():
                    raise
                return {}
            return {
                entry["name"].rstrip("/").rpartition("/")[2]: entry.get("size") or 0
                for entry in found
                if entry["type"] == kind and entry["name"].rstrip("/") != filesystem._strip_protocol(directory)
            }

    def is_same(self, file: StoredFile) -> bool:
        """Whether `file` is still as it was listed: its size, and on disks and S3 its version too."""
        with one_sentence(file.uri, "read"):
            if not is_remote(file.uri):
                status = os.stat(file.uri)
                return (status.st_size, str(status.st_mtime_ns)) == (file.size, file.version)
            info = self._filesystem(file.uri).info(file.uri)
            is_s3 = file.uri.startswith(("s3://", "s3a://"))
            return info["size"] == file.size and (not is_s3 or _version(info) == file.version)

    @contextmanager
    def open(self, uri: str) -> Iterator[IO[bytes]]:
        """Open for reading at random places."""
        with one_sentence(uri, "read"):
            if not is_remote(uri):
                with open(uri, "rb") as file:
                    yield file
            else:
                # No cache: Parquet reads columns side by side, and buffers each itself.
                with self._filesystem(uri).open(uri, "rb", cache_type="none") as file:
                    yield file

    def read(self, uri: str) -> bytes:
        """A whole file."""
        with one_sentence(uri, "read"):
            return self._filesystem(uri).cat_file(uri)  # type: ignore[no-any-return]

    def read_tail(self, file: StoredFile, size: int) -> bytes:
        """The last `size` bytes of `file`, or all of it if it is smaller: one request."""
        with one_sentence(file.uri, "read"):
            start = max(0, file.size - size)
            if is_remote(file.uri):
                return self._filesystem(file.uri).cat_file(file.uri, start=start, end=file.size)  # type: ignore[no-any-return]
            with open(file.uri, "rb") as opened:
                opened.seek(start)
                return opened.read()

    def write(self, uri: str, data: bytes) -> None:
        """Put `data` there under that name, whole or not at all, over what was there."""
        with one_sentence(uri, "write"):
            if is_remote(uri):
                self._filesystem(uri).pipe_file(uri, data)
            else:
                write_disk(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        """Put `data` there unless something is there already; False then. A server that knows no conditional upload
        writes over what is there: who must be sure reads back what it holds after a while."""
        with one_sentence(uri, "write"):
            if not is_remote(uri):
                return create_on_disk(uri, data)
            try:
                self._filesystem(uri).pipe_file(uri, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if _is_unmet_condition(error):
                    return False
                raise
            return True

    def remove(self, uri: str, *, recursive: bool = False) -> None:
        """Delete a file, or with `recursive` a directory; fine if it is not there."""
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
        _make_contact(filesystem, directory)
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
        filesystem = fsspec.filesystem(scheme, use_listings_cache=False, **self._options(scheme))
        if scheme in ("s3", "s3a"):
            filesystem.retries = _S3_ATTEMPTS
        return filesystem

    def _options(self, scheme: str) -> dict[str, Any]:
        if scheme in ("s3", "s3a"):
            return _s3_options(self.endpoint_url)
        if scheme in ("gs", "gcs"):
            # Its probe for a kind of bucket that we do not need hangs for a minute where gRPC is not answered.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            return {"endpoint_url": self.endpoint_url} if self.endpoint_url else {}
        if scheme in ("az", "abfs", "abfss"):
            return _azure_options(self.endpoint_url)
        return {}


def keep_trying(action: Callable[[], T], *, for_s: float = 180.0) -> T:
    """Call `action` until it no longer raises StorageError, at most `for_s` seconds: a night's job outlives a short
    outage of the storage. Only for actions that may be done twice."""
    deadline, wait_s = time.monotonic() + for_s, 1.0
    while True:
        try:
            return action()
        except StorageError:
            if time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        wait_s = min(wait_s * 2, 30.0)


def _make_contact(filesystem: Any, uri: str) -> None:
    """One small question with a deadline: every library retries a silent server for minutes, each in its own way.
    Any answer will do, so what is wrong with `uri` itself is left to the call that follows."""
    if isinstance(filesystem, AsyncFileSystem):
        sync(filesystem.loop, filesystem._exists, join(uri, ".contact"), timeout=_CONTACT_TIMEOUT_S)


def _s3_options(endpoint_url: str | None) -> dict[str, Any]:
    # botocore and s3fs both retry; their defaults multiply to minutes of silence before an unreachable address fails.
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


def _is_unmet_condition(error: OSError) -> bool:
    """Whether S3 refused an upload because something is there (412), or is being put there at this moment (409)."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict")


def _version(info: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "created"):
        if info.get(name):
            return str(info[name]).strip('"')
    return ""
