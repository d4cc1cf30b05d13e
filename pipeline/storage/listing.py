"""Lists the files of a directory, or those that a pattern matches: on a disk, or in what a store has answered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from stat import S_ISREG

from tirazh.errors import InputError
from tirazh.pipeline.storage.disk import StoredFile, disk_version
from tirazh.pipeline.storage.errors import one_sentence
from tirazh.pipeline.storage.patterns import Pattern, is_hidden, is_hidden_name
from tirazh.pipeline.storage.table_logs import TableLog, log_of

LINKED_TWICE = "they are links to what is read already"
NOTHING_THERE = "they are links to nothing"
NO_FILE = "they are neither files nor directories"

_Accepts = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Something that was found and is not read. `reason` is a phrase about it."""

    uri: str
    reason: str


@dataclass(slots=True)
class Listing:
    """What was found below a directory.

    `files` are the visible files, or those that a pattern matches, unsorted. `logs` are the logs of table formats
    that were seen on the way. `passed_over` is what is no readable file. `is_literal` is false for the matches of a
    pattern. `is_whole` tells whether everything below `root` was seen.
    """

    root: str
    files: list[StoredFile] = field(default_factory=list)
    logs: set[TableLog] = field(default_factory=set)
    passed_over: list[PassedOver] = field(default_factory=list)
    is_literal: bool = True
    is_whole: bool = True

    def see(self, uri: str) -> None:
        """Remember the log of a table format that `uri` belongs to, if there is one."""
        log = log_of(uri)
        if log is not None:
            self.logs.add(log)


def list_disk(path: str) -> Listing:
    """List the visible files below `path`, or `path` itself if it is a file.

    A directory is entered once, however many links lead to it, and the links after the directories themselves.
    Raises InputError for a directory that cannot be read, and OSError for `path`.
    """
    if os.path.isdir(path):
        return _Walk(Listing(path), _is_visible, _is_visible).run()
    status = os.stat(path)
    if not os.path.isfile(path):
        raise InputError(
            f"input {path} is neither a file nor a directory; write its rows to a Parquet file and give that"
        )
    file = StoredFile(path, os.path.basename(path), status.st_size, disk_version(status))
    return Listing(path, [file], is_whole=False)


def match_disk(pattern: Pattern) -> Listing:
    """List the files that `pattern` matches, and the visible files below the directories that it matches."""
    listing = Listing(pattern.base, is_literal=False)
    if not os.path.isdir(pattern.base):
        return listing
    return _Walk(
        listing, pattern.may_match_below, lambda path: pattern.matches(path) or pattern.matches_above(path)
    ).run()


def select_below(directory: str, stored: Iterable[StoredFile]) -> Listing:
    """The listing of `directory`, of all the files in a store below it."""
    files = list(stored)
    listing = Listing(directory, is_whole=all(file.uri != directory for file in files))
    for file in files:
        listing.see(file.uri)
        if not is_hidden(file.key):
            listing.files.append(file)
    return listing


def select_matching(pattern: Pattern, stored: Iterable[StoredFile]) -> Listing:
    """The listing of `pattern`, of all the files in a store below `pattern.base` that begin as its matches do.

    If there is a file of that very name, or a directory, it is meant.
    """
    files = list(stored)
    literal = [file for file in files if file.uri == pattern.text or file.uri.startswith(f"{pattern.text}/")]
    if literal:
        return select_below(pattern.text, (_with_root(file, pattern.text) for file in literal))
    listing = Listing(pattern.base, is_literal=False, is_whole=not pattern.beginning)
    for file in files:
        listing.see(file.uri)
        if pattern.matches(file.uri) or pattern.matches_above(file.uri):
            listing.files.append(file)
    return listing


def key_below(root: str, uri: str) -> str:
    """The path of `uri` below `root`; its last name if it is `root` itself."""
    return uri.removeprefix(root).lstrip("/") or uri.rpartition("/")[2]


def _with_root(file: StoredFile, root: str) -> StoredFile:
    return StoredFile(file.uri, key_below(root, file.uri), file.size, file.version)


def _is_visible(path: str) -> bool:
    return not is_hidden_name(path.rpartition("/")[2])


class _Walk:
    """One walk over a directory of a disk. `enters` and `takes` tell which paths are entered and listed."""

    def __init__(self, listing: Listing, enters: _Accepts, takes: _Accepts) -> None:
        self._listing, self._enters, self._takes = listing, enters, takes
        self._entered = set[tuple[int, int]]()
        self._directories, self._links = list[str](), list[str]()

    def run(self) -> Listing:
        """Fill the listing: first what is really below the directory, then what links lead to."""
        self._enter(self._listing.root)
        while self._directories or self._links:
            if self._directories:
                for entry in _entries(self._directories.pop()):
                    self._sort(entry)
            else:
                self._follow(heappop(self._links))
        return self._listing

    def _sort(self, entry: os.DirEntry[str]) -> None:
        enters, takes = self._enters(entry.path), self._takes(entry.path)
        self._listing.see(entry.path)
        if not enters and not takes:
            return
        if entry.is_symlink():
            heappush(self._links, entry.path)
        elif entry.is_dir():
            if enters:
                self._enter(entry.path)
        elif takes:
            self._add(entry.path)

    def _follow(self, link: str) -> None:
        if os.path.isdir(link):
            self._enter(link)
        elif self._takes(link) or not os.path.exists(link):
            self._add(link)

    def _enter(self, directory: str) -> None:
        try:
            status = os.stat(directory)
        except FileNotFoundError:  # removed meanwhile
            return
        if (status.st_dev, status.st_ino) in self._entered:
            self._listing.passed_over.append(PassedOver(directory, LINKED_TWICE))
            return
        self._entered.add((status.st_dev, status.st_ino))
        self._directories.append(directory)

    def _add(self, path: str) -> None:
        try:
            status = os.stat(path)
        except OSError as error:
            if os.path.islink(path):
                self._listing.passed_over.append(PassedOver(path, NOTHING_THERE))
            elif not isinstance(error, FileNotFoundError):  # that one was removed meanwhile
                raise
            return
        if S_ISREG(status.st_mode):
            key = key_below(self._listing.root, path)
            self._listing.files.append(StoredFile(path, key, status.st_size, disk_version(status)))
        else:
            self._listing.passed_over.append(PassedOver(path, NO_FILE))


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    with one_sentence(directory, "read"):
        try:
            entries = os.scandir(directory)
        except FileNotFoundError:  # removed meanwhile
            return
        with entries:
            yield from entries
