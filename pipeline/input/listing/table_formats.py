"""Refuses the data files of a table format, because only its log says which of them hold rows of the table.

Deleted and replaced rows stay in the files until the table is cleaned; read as loose files, they would come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from tirazh.errors import InputError, TirazhError
from tirazh.pipeline.input.listing.conversions import python, quoted
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote, join
from tirazh.pipeline.storage.listing import Listing
from tirazh.pipeline.storage.table_logs import (
    DELTA,
    HUDI,
    ICEBERG,
    ICEBERG_DIRECTORY,
    LOG_DIRECTORIES,
    TableLog,
    iceberg_version,
    is_iceberg_log,
)

# In a store each directory takes three requests.
_STORE_LEVELS = 2
# The log of a streaming sink is looked for where it costs no request.
_LOOKED_FOR_IN_STORES = ("_delta_log", ".hoodie")


@dataclass(frozen=True, slots=True)
class TableCheck:
    """Looks for the tables that input files belong to. `seen` are the directories that were looked into."""

    storage: Storage
    seen: set[str] = field(default_factory=set)

    def refuse(self, listing: Listing, uri: str) -> None:
        """Raise InputError if what the input `uri` means is a table, contains one or lies in one."""
        directories = {file.uri.rpartition("/")[0] or "/" for file in listing.files}
        for log in sorted(listing.logs, key=lambda log: log.root):
            if listing.is_literal or any(_is_in(directory, log.root) for directory in directories):
                raise self._refusal(uri, log)
        if not listing.files or listing.files[0].uri != listing.root:
            directories.add(listing.root)
        for directory in self._and_above(directories, listing.root, is_whole=listing.is_whole):
            found = None if directory in self.seen else self._look_into(directory)
            if found is not None:
                raise self._refusal(uri, found)
            self.seen.add(directory)

    def _and_above(self, directories: Iterable[str], root: str, *, is_whole: bool) -> list[str]:
        """The directories that may be the root of a table which the listed files belong to."""
        if not is_remote(root):
            return list(dict.fromkeys(above for directory in sorted(directories) for above in _parents(directory)))
        lowest = min(directories, key=len)
        candidates = [
            above
            for above in _parents(lowest)
            # The directory of a partition is no table, and what was listed as a whole has no log.
            if "=" not in above.rpartition("/")[2] and not (is_whole and above == root)
        ]
        return candidates[:_STORE_LEVELS]

    def _look_into(self, directory: str) -> TableLog | None:
        if is_remote(directory):
            names = [name for name in _LOOKED_FOR_IN_STORES if self._names_in(join(directory, name))]
        else:
            names = [name for name in LOG_DIRECTORIES if os.path.isdir(join(directory, name))]
        if names:
            return TableLog(LOG_DIRECTORIES[names[0]], directory)
        return TableLog(ICEBERG, directory) if self._iceberg_versions(directory) else None

    def _iceberg_versions(self, directory: str) -> list[str]:
        """The names of the metadata files of an Iceberg table, the newest one last."""
        names = self._names_in(join(directory, ICEBERG_DIRECTORY))
        return sorted(filter(lambda name: is_iceberg_log(f"{ICEBERG_DIRECTORY}/{name}"), names), key=iceberg_version)

    def _names_in(self, directory: str) -> list[str]:
        """The names of the files in a directory; none if it may not be listed, which only the input itself must."""
        try:
            return self.storage.names_in(directory)
        except TirazhError:
            return []

    def _refusal(self, uri: str, log: TableLog) -> InputError:
        place = f"input {show_uri(uri)} {'is' if uri == log.root else 'has files of'}"
        article = "an" if log.kind == ICEBERG else "a"
        name = f"{article} {log.kind} table" if uri == log.root else f"the {log.kind} table {show_uri(log.root)}"
        return InputError(
            f"{place} {name}, whose log ({_log_name(log)}) decides which files hold rows; write its rows "
            f"to Parquet files and give those: {self._command(log)}"
        )

    def _command(self, log: TableLog) -> str:
        """One line for a shell that writes the rows of the table to a Parquet file, or for PySpark."""
        root = show_uri(log.root)
        write = 'import pyarrow.parquet as p; p.write_table({}, "rows.parquet")'
        if log.kind == DELTA:
            table = f"DeltaTable({quoted(root)}).to_pyarrow_table()"
            return f"pip install deltalake && {python(f'from deltalake import DeltaTable; {write.format(table)}')}"
        if log.kind == ICEBERG:
            newest = quoted(join(root, ICEBERG_DIRECTORY, self._iceberg_versions(log.root)[-1]))
            table = f"t.from_metadata({newest}).scan().to_arrow()"
            code = f"from pyiceberg.table import StaticTable as t; {write.format(table)}"
            return f"pip install 'pyiceberg[pyarrow]' && {python(code)}"
        source = f"spark.read.format('hudi').load({root!r})" if log.kind == HUDI else f"spark.read.parquet({root!r})"
        return f"{source}.write.parquet('rows') in PySpark"


def _log_name(log: TableLog) -> str:
    directories = {kind: f"{name}/" for name, kind in LOG_DIRECTORIES.items()}
    return directories.get(log.kind, f"{ICEBERG_DIRECTORY}/")


def _parents(directory: str) -> Iterable[str]:
    """`directory` and those above it; in a store up to the bucket."""
    while directory:
        yield directory
        above = directory.rpartition("/")[0] or ("/" if directory.startswith("/") else "")
        if above == directory or above.endswith(":/"):
            return
        directory = above


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
