"""Lists the input: files, directories and glob patterns become one list of Parquet files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.input.listing.passed_over import LINK_TO_FILE, NO_SUFFIX, NOT_PARQUET, say_passed_over
from tirazh.pipeline.input.listing.table_formats import TableCheck
from tirazh.pipeline.input.listing.without_parquet import is_parquet, no_parquet, refuse_unreadable
from tirazh.pipeline.input.schemas.hive import partition_of
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote
from tirazh.pipeline.storage.listing import NOTHING_THERE, Listing, PassedOver
from tirazh.pipeline.storage.patterns import Pattern, has_wildcard, is_hidden

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
_THREADS = 16
_OR_EMPTY = "with --allow-empty it gives an empty output"


class NothingToRead(InputError):
    """An input in which there is no file at all."""


@dataclass(frozen=True, slots=True)
class InputListing:
    """The Parquet files of an input, and what was found beside them and is not read.

    `by_input` has the URIs of the files that each of several inputs contains, in their order.
    """

    files: tuple[StoredFile, ...]
    passed_over: tuple[PassedOver, ...] = ()
    by_input: tuple[frozenset[str], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """At most one sentence: what was passed over, and why."""
        return say_passed_over(self.passed_over)


def list_inputs(storage: Storage, inputs: Sequence[str]) -> list[StoredFile]:
    """The files of `find_inputs`."""
    return list(find_inputs(storage, inputs).files)


def find_inputs(storage: Storage, inputs: Sequence[str], *, allow_empty: bool = False) -> InputListing:
    """List the Parquet files of `inputs` (see `full_uri`), in the given order, those of one input
    sorted by URI.

    A directory is searched recursively for the suffixes of Parquet; names that begin with `_` or `.` are skipped. A
    single file may have any name, and so may a Parquet file that a pattern matches. An existing name that holds
    `*`, `?` or `[` is that name. A file that several inputs contain, or several links lead to, is listed once. No two
    files have the same key.

    Raises InputError for the files of a table format, for a link to nothing, and for an input without files, unless
    `allow_empty` leaves it out.
    """
    files: dict[str, StoredFile] = {}
    passed_over: dict[str, PassedOver] = {}
    by_input: list[frozenset[str]] = []
    tables = TableCheck(storage)
    for uri in inputs:
        try:
            listing = _list_one(storage, uri, tables)
        except NothingToRead:
            if not allow_empty:
                raise
            by_input.append(frozenset())
            continue
        by_input.append(frozenset(file.uri for file in listing.files))
        for file in sorted(listing.files, key=lambda file: file.uri):
            files.setdefault(file.uri, replace(file, partition=partition_of(file.uri, file.key)))
        passed_over |= {each.uri: each for each in sorted(listing.passed_over, key=lambda each: each.uri)}
    chosen, links = _without_second_links(list(files.values()))
    for file in chosen:
        if any("\ud800" <= character <= "\udfff" for character in file.uri):  # surrogates: bytes that are not UTF-8
            raise InputError(f"the input file {file.uri!r} has a name that is not UTF-8; rename it")
    left = [each for each in passed_over.values() if each.uri not in files]
    return InputListing(tuple(_with_different_keys(chosen)), (*left, *links), tuple(by_input))


def _without_second_links(files: Sequence[StoredFile]) -> tuple[list[StoredFile], list[PassedOver]]:
    """The files, each of them once, and the links that lead to one of the others."""
    real = {file.uri: os.path.realpath(file.uri) for file in files if not is_remote(file.uri)}
    # A file is listed by its own name if that is among the inputs, else by the first link to it.
    names: dict[str, str] = {}
    for uri, path in real.items():
        if uri == path or path not in names:
            names[path] = uri
    links = {uri for uri, path in real.items() if names[path] != uri}
    return [file for file in files if file.uri not in links], [PassedOver(uri, LINK_TO_FILE) for uri in sorted(links)]


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
    """Whether the input `pattern` would include a Parquet file at `uri`, also by links on a disk."""
    if _includes(pattern, uri):
        return True
    if is_remote(pattern) or is_remote(uri):
        return False
    base = Pattern(pattern).base if _is_pattern(pattern) else pattern
    return _includes(os.path.realpath(base) + pattern.removeprefix(base), os.path.realpath(uri))


def _includes(pattern: str, uri: str) -> bool:
    if _is_pattern(pattern):
        wanted = Pattern(pattern)
        if wanted.matches(uri) or wanted.matches_above(uri):
            return True
    return uri == pattern or (uri.startswith(f"{pattern}/") and not is_hidden(uri.removeprefix(f"{pattern}/")))


def _is_pattern(uri: str) -> bool:
    """Whether `uri` may be a pattern. The name of an existing local file may itself contain wildcard characters."""
    return has_wildcard(uri) and (is_remote(uri) or not os.path.lexists(uri))


def _list_one(storage: Storage, uri: str, tables: TableCheck) -> Listing:
    pattern = Pattern(uri) if _is_pattern(uri) else None
    listing = _list_below(storage, uri) if pattern is None else _list_matches(storage, pattern)
    for each in listing.passed_over:
        if each.reason == NOTHING_THERE and _may_be_parquet(each.uri):
            raise _broken_link(each.uri)
    tables.refuse(listing, uri)
    if [file.uri for file in listing.files] == [uri]:
        refuse_unreadable(storage, listing.files[0])
        return listing
    return _only_parquet(storage, uri, listing, None if listing.is_literal else pattern)


def _list_below(storage: Storage, uri: str) -> Listing:
    try:
        return storage.list_below(_existing(uri))
    except InputError as error:
        if is_remote(uri) and str(error).endswith("does not exist") and "bucket" not in str(error):
            raise NothingToRead(f"{error}; {_OR_EMPTY}") from error
        raise


def _existing(uri: str) -> str:
    if is_remote(uri) or os.path.exists(uri):
        return uri
    if os.path.islink(uri):
        raise _broken_link(uri)
    directory, name = os.path.split(uri)
    siblings = os.listdir(directory) if os.path.isdir(directory) else []
    hint = did_you_mean(name, siblings, prefix=os.path.join(directory, ""))
    raise NothingToRead(f"input {uri} does not exist{hint or f'; {_OR_EMPTY}'}")


def _broken_link(uri: str) -> InputError:
    return InputError(f"{uri} is a link to {os.readlink(uri)}, which does not exist; restore that or remove the link")


def _list_matches(storage: Storage, pattern: Pattern) -> Listing:
    if is_remote(pattern.text) and has_wildcard("/".join(pattern.text.split("/")[:3])):
        raise InputError(f"{show_uri(pattern.text)}: the name of a bucket must be given without wildcards")
    listing = storage.list_matching(pattern)
    if not listing.files:
        raise NothingToRead(f"no file matches the input pattern {show_uri(pattern.text)}; {_OR_EMPTY}")
    return listing


def _only_parquet(storage: Storage, uri: str, listing: Listing, pattern: Pattern | None) -> Listing:
    """Choose the files by their suffix, and those that a pattern matches itself by their first bytes."""
    chosen = [file for file in listing.files if file.uri.lower().endswith(PARQUET_SUFFIXES)]
    names = {file.uri for file in chosen}
    others = [file for file in listing.files if file.uri not in names]
    named = [file for file in others if pattern is not None and pattern.matches(file.uri)]
    with ThreadPoolExecutor(_THREADS) as threads:
        checked = zip(named, threads.map(lambda file: is_parquet(storage, file), named), strict=True)
        reasons = {file.uri: None if is_one else NOT_PARQUET for file, is_one in checked}
    chosen += [file for file in named if reasons[file.uri] is None]
    if not listing.files:
        raise NothingToRead(f"{no_parquet(storage, uri, listing.root, ())}; {_OR_EMPTY}")
    if not chosen:
        raise no_parquet(storage, uri, listing.root, listing.files)
    left = [PassedOver(file.uri, reason) for file in others if (reason := reasons.get(file.uri, NO_SUFFIX)) is not None]
    return replace(listing, files=chosen, passed_over=[*listing.passed_over, *left])


def _may_be_parquet(uri: str) -> bool:
    suffix = os.path.splitext(uri)[1].lower()
    return not suffix or suffix in PARQUET_SUFFIXES
