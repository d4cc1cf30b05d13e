"""Which files a job reads: files, directories and globs become one list of Parquet files. Called by `plan.py`."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from tirazh.errors import InputError
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
_WILDCARDS = "*?["


def list_inputs(storage: Storage, inputs: Sequence[str]) -> list[StoredFile]:
    """The Parquet files of `inputs`, in the order named, each input's files sorted, each file once.

    A directory is searched at every depth for names ending in .parquet; names that begin with `_` or `.` are
    skipped. A file named outright may be called anything. Raises InputError when an input holds nothing.
    """
    files: dict[str, StoredFile] = {}
    for named in inputs:
        for file in sorted(_list_one(storage, full_uri(named)), key=lambda file: file.uri):
            files.setdefault(file.uri, file)
    for file in files.values():
        if any("\ud800" <= sign <= "\udfff" for sign in file.uri):  # how Python holds bytes that are no UTF-8
            raise InputError(f"the input {file.uri!r} has a name that is not UTF-8; rename it")
    return list(files.values())


def would_read(named: str, uri: str) -> bool:
    """Whether the input `named` takes in a Parquet file at `uri`, were there one."""
    pattern, steps = full_uri(named), uri.split("/")
    if "**" not in pattern:
        wanted = pattern.split("/")
        if len(steps) < len(wanted) or not all(map(fnmatchcase, steps, wanted)):
            return False
        return not any(name.startswith(("_", ".")) for name in steps[len(wanted) :])
    return uri.startswith(_before_wildcard(pattern) + "/")


def _list_one(storage: Storage, uri: str) -> list[StoredFile]:
    if any(sign in uri for sign in _WILDCARDS) and not (not is_remote(uri) and os.path.exists(uri)):
        return _list_glob(storage, uri)
    if not is_remote(uri) and not os.path.exists(uri):
        raise InputError(f"input {uri} does not exist{_did_you_mean(uri)}")
    found = storage.walk(uri)
    if len(found) == 1 and found[0].uri == uri:
        return found
    return _only_parquet(uri, found)


def _list_glob(storage: Storage, pattern: str) -> list[StoredFile]:
    matches = storage.glob(pattern)
    if not matches:
        raise InputError(f"no file matches the input {show_uri(pattern)}")
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
        raise InputError(f"input {show_uri(uri)} holds no .parquet file (it holds {others})")
    return chosen


def _before_wildcard(uri: str) -> str:
    cut = min((uri.index(sign) for sign in _WILDCARDS if sign in uri), default=len(uri))
    return uri if cut == len(uri) else uri[:cut].rpartition("/")[0]


def _did_you_mean(path: str) -> str:
    directory, name = os.path.split(path)
    if not os.path.isdir(directory):
        return ""
    near = difflib.get_close_matches(name, os.listdir(directory), n=1)
    return f"; did you mean {os.path.join(directory, near[0])}?" if near else ""
