"""Finds outputs by their names: a directory, a pattern such as `labelled/*`, or all below a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from tirazh.errors import RequestError
from tirazh.pipeline.output.names import OWN, OutputFiles
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote, join
from tirazh.pipeline.storage.patterns import has_wildcard

_MAX_DEPTH = 8


def matching_outputs(text: str, storage: Storage) -> list[OutputFiles]:
    """The outputs that a path or a pattern names, by name. A pattern matches names of directories, one `*` each.

    Raises RequestError for a path that is no output and for a pattern without any.
    """
    uri = full_uri(text)
    if not has_wildcard(uri) or (not is_remote(uri) and os.path.isdir(uri)):
        if not is_output(storage, uri):
            raise RequestError(f"{show_uri(uri)} is not the output of a job: it has no {OWN}")
        return [OutputFiles(storage, uri)]
    head, *names = _split(uri)
    found = [head]
    for name in names:
        below = ((directory, _matches(storage, directory, name)) for directory in found)
        found = [join(directory, each) for directory, each_name in below for each in each_name]
    outputs = [OutputFiles(storage, uri) for uri in found if is_output(storage, uri)]
    if not outputs:
        raise RequestError(f"no output of a job matches {show_uri(text)}")
    return outputs


def outputs_below(directory: str, storage: Storage) -> Iterator[OutputFiles]:
    """All outputs below a directory, by name. Links are not followed, and an output is not searched itself."""
    yield from _below(directory, storage, _MAX_DEPTH)


def is_output(storage: Storage, uri: str) -> bool:
    """Whether a directory has the files of a job. Some stores keep the directories of files that were removed."""
    files = OutputFiles(storage, uri)
    return OWN in storage.directories(uri) and bool(storage.names(files.own()) or storage.names(files.leases))


def is_link(uri: str) -> bool:
    """Whether a path is a symbolic link. There are none in an object store."""
    return not is_remote(uri) and os.path.islink(uri)


def _below(directory: str, storage: Storage, depth: int) -> Iterator[OutputFiles]:
    for name in sorted(storage.directories(directory)):
        uri = join(directory, name)
        if name.startswith(("_", ".")) or is_link(uri):
            continue
        if is_output(storage, uri):
            yield OutputFiles(storage, uri)
        elif depth:
            yield from _below(uri, storage, depth - 1)


def _split(uri: str) -> list[str]:
    """The directory before the first wildcard, and each name behind it."""
    start = uri.index("://") + 3 if is_remote(uri) else 1
    names = uri[start:].split("/")
    first = next(index for index, name in enumerate(names) if has_wildcard(name))
    if is_remote(uri) and first == 0:
        raise RequestError(f"{show_uri(uri)}: the name of a bucket must be given without wildcards")
    return [uri[:start] + "/".join(names[:first]), *names[first:]]


def _matches(storage: Storage, directory: str, name: str) -> list[str]:
    directories = storage.directories(directory)
    if not has_wildcard(name):
        return [name] if name in directories else []
    return sorted(each for each in directories if fnmatchcase(each, name) and not each.startswith((".", "_")))
