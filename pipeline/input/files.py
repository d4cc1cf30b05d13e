"""Lists the input: files, directories and glob patterns become one list of Parquet files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.input.hive import partition_of
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
_WILDCARDS = "*?["


def list_inputs(storage: Storage, inputs: Sequence[str]) -> list[StoredFile]:
    """List the Parquet files of `inputs` (see `full_uri`), in the given order, those of one input
    sorted by URI.

    A directory is searched recursively for the suffixes of Parquet; names that begin with `_` or
    `.` are skipped. A single file may have any name. A file that several inputs contain is listed
    once. No two files have the same key. Raises InputError for an input without files.
    """
    files: dict[str, StoredFile] = {}
    for uri in inputs:
        for file in sorted(_list_one(storage, uri), key=lambda file: file.uri):
            files.setdefault(file.uri, replace(file, partition=partition_of(file.uri, file.key)))
    for file in files.values():
        if any("\ud800" <= character <= "\udfff" for character in file.uri):  # surrogates: bytes that are not UTF-8
            raise InputError(f"the input file {file.uri!r} has a name that is not UTF-8; rename it")
    return _with_different_keys(list(files.values()))


def _with_different_keys(files: list[StoredFile]) -> list[StoredFile]:
    """Lengthen keys that several files have, by parent directories, until they differ.

    A row's random numbers depend on the key of its file, so two files of one name would get the
    same ones. The keys of a single input always differ and stay as they are.
    """
    while repeated := {key for key, count in Counter(file.key for file in files).items() if count > 1}:
        files = [replace(file, key=_longer_key(file)) if file.key in repeated else file for file in files]
    return files


def _longer_key(file: StoredFile) -> str:
    """The end of the file's URI that is one name longer than its key."""
    directory, _, _ = file.uri.rpartition(f"/{file.key}")
    return f"{directory.rpartition('/')[2]}/{file.key}" if directory else file.uri


def would_read(pattern: str, uri: str) -> bool:
    """Whether the input `pattern` would include a Parquet file at `uri`."""
    names = uri.split("/")
    if "**" not in pattern:
        patterns = pattern.split("/")
        if len(names) < len(patterns) or not all(map(fnmatchcase, names, patterns)):
            return False
        return not any(name.startswith(("_", ".")) for name in names[len(patterns) :])
    return uri.startswith(_before_wildcard(pattern) + "/")


def _list_one(storage: Storage, uri: str) -> list[StoredFile]:
    # The name of an existing local file may itself contain wildcard characters.
    if any(wildcard in uri for wildcard in _WILDCARDS) and not (not is_remote(uri) and os.path.exists(uri)):
        return _list_glob(storage, uri)
    if not is_remote(uri) and not os.path.exists(uri):
        directory, name = os.path.split(uri)
        siblings = os.listdir(directory) if os.path.isdir(directory) else []
        hint = did_you_mean(name, siblings, prefix=os.path.join(directory, ""))
        raise InputError(f"input {uri} does not exist{hint}")
    found = storage.walk(uri)
    if len(found) == 1 and found[0].uri == uri:
        return found
    return _only_parquet(uri, found)


def _list_glob(storage: Storage, pattern: str) -> list[StoredFile]:
    matches = storage.glob(pattern)
    if not matches:
        raise InputError(f"no file matches the input pattern {show_uri(pattern)}")
    # Keys are relative to the directory before the first wildcard, so that they do not depend on
    # where the input is stored.
    root = _before_wildcard(pattern)
    found = [
        StoredFile(file.uri, file.uri.removeprefix(root).lstrip("/"), file.size, file.version)
        for match in matches
        if not match.rstrip("/").rpartition("/")[2].startswith(("_", "."))
        for file in storage.walk(match.rstrip("/"))
    ]
    return _only_parquet(pattern, found)


def _only_parquet(uri: str, found: Sequence[StoredFile]) -> list[StoredFile]:
    chosen = [file for file in found if file.uri.lower().endswith(PARQUET_SUFFIXES)]
    if not chosen:
        suffixes = Counter(os.path.splitext(file.uri)[1] or "no suffix" for file in found)
        others = ", ".join(f"{count} × {suffix}" for suffix, count in suffixes.most_common(3)) or "nothing"
        raise InputError(f"input {show_uri(uri)} contains no .parquet file (it contains {others})")
    return chosen


def _before_wildcard(uri: str) -> str:
    cut = min((uri.index(wildcard) for wildcard in _WILDCARDS if wildcard in uri), default=len(uri))
    return uri if cut == len(uri) else uri[:cut].rpartition("/")[0]
