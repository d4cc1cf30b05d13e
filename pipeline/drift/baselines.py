"""The outputs that an output is compared with: found, opened, named and dated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.gold.finished import FinishedOutput, open_any
from tirazh.pipeline.output.names import OWN
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, join
from tirazh.pipeline.storage.patterns import has_wildcard, is_hidden_name

HISTORY = "runs.jsonl"
_DATE = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedOutput:
    """A finished output with a `name` that no other one of a comparison has. `date` is when its last run ended, or the
    date in its name, as ISO 8601; "" if neither is known."""

    found: FinishedOutput
    name: str
    date: str

    @property
    def uri(self) -> str:
        """The directory, without secrets."""
        return show_uri(self.found.files.directory)

    @property
    def day(self) -> str:
        """The day that the output stands for: that in its name, else that of its last run."""
        return _day_in(self.found.files.directory) or self.date[:10]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """The output and its baselines, the oldest first. `left_out` are sentences about outputs that a pattern matched
    and that are no baselines."""

    output: NamedOutput
    baselines: tuple[NamedOutput, ...]
    left_out: tuple[str, ...] = field(default=())

    @property
    def together(self) -> str:
        """What the baselines are called in a sentence."""
        count = len(self.baselines)
        if count == 1:
            return self.baselines[0].name
        days = [each.day for each in self.baselines]
        are_nights = all(days) and len(set(days)) == count and max(days) < self.output.day
        return f"the last {count} nights" if are_nights else f"the {count} baselines"


def open_baselines(output: str, against: Sequence[str], storage: Storage) -> Baselines:
    """Open an output and the outputs `against`, which are directories, or patterns of them.

    A pattern leaves out the output itself and what is not finished. Raises OutputError for a directory that is not
    the output of a finished job or is one of another kind, for the output among its own baselines, and for a pattern
    that matches none.
    """
    found = open_any(output, storage)
    opened: dict[str, FinishedOutput] = {}
    left_out: list[str] = []
    for each in against:
        for directory, is_match in _directories(each, storage):
            if directory == found.files.directory:
                if is_match:
                    continue
                raise OutputError(f"{show_uri(directory)} cannot be compared with itself; name other outputs")
            try:
                opened[directory] = open_any(directory, storage)
            except OutputError as error:
                if not is_match:
                    raise
                left_out.append(f"{error} (left out)")
        if has_wildcard(each) and not opened:
            raise OutputError(f"no other finished output matches {show_uri(each)}")
    for directory, other in opened.items():
        if other.manifest["kind"] != found.manifest["kind"]:
            kinds = f"{other.manifest['kind']}, not of {found.manifest['kind']}"
            raise OutputError(f"{show_uri(directory)} is an output of {kinds}, so they cannot be compared")
    names = _names([found.files.directory, *opened])
    dated = [NamedOutput(found=each, name=names[uri], date=_date_of(each, storage)) for uri, each in opened.items()]
    return Baselines(
        output=NamedOutput(found=found, name=names[found.files.directory], date=_date_of(found, storage)),
        baselines=tuple(sorted(dated, key=lambda each: (each.day, each.date, each.name))),
        left_out=tuple(left_out),
    )


def _directories(uri: str, storage: Storage) -> Iterator[tuple[str, bool]]:
    """The directories that an argument names, and whether a pattern matched them. Those without `_tirazh/` are none.

    A directory of this very name is meant, also if it looks like a pattern.
    """
    full = full_uri(uri)
    if not has_wildcard(uri) or OWN in storage.directories(full):
        yield full, False
        return
    scheme, separator, path = full.rpartition("://")
    first, *names = path.split("/")
    for directory in _matching(f"{scheme}{separator}{first}", names, storage):
        if OWN in storage.directories(directory):
            yield directory, True


def _matching(directory: str, names: Sequence[str], storage: Storage) -> Iterator[str]:
    if not names:
        yield directory
        return
    name, *rest = names
    if not has_wildcard(name):
        yield from _matching(f"{directory}/{name}", rest, storage)
        return
    for each in sorted(storage.directories(directory or "/")):
        if fnmatchcase(each, name) and (not is_hidden_name(each) or is_hidden_name(name)):
            yield from _matching(f"{directory}/{each}", rest, storage)


def _names(directories: Sequence[str]) -> dict[str, str]:
    """The last names of the directories, with as many before them as make them different."""
    parts = {directory: show_uri(directory).split("/") for directory in directories}
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {directory: "/".join(each[-length:]) for directory, each in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {directory: show_uri(directory) for directory in directories}


def _date_of(found: FinishedOutput, storage: Storage) -> str:
    for value in (found.manifest.get("end"), found.manifest.get("begin"), *_ends(found, storage)):
        if isinstance(value, str) and _is_date(value):
            return value
    return _day_in(found.files.directory)


def _ends(found: FinishedOutput, storage: Storage) -> Iterator[Any]:
    """When the runs of an output ended, the last one first; nothing if its history cannot be read."""
    try:
        if HISTORY not in storage.names(found.files.own()):
            return
        lines = storage.read(join(found.files.directory, OWN, HISTORY)).splitlines()
    except (InputError, OutputError):
        return
    for line in reversed(lines):
        try:
            run = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(run, Mapping):
            yield run.get("end") or run.get("begin")


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _day_in(directory: str) -> str:
    found = _DATE.findall(directory.rsplit("/", 1)[-1])
    return found[-1] if found and _is_date(found[-1]) else ""
