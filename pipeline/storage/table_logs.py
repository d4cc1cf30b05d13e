"""The logs of table formats, told by their names: what decides which data files of a directory hold rows.

Sources of the names: Delta transaction log protocol (`_delta_log`), Apache Hudi table layout (`.hoodie`), Spark
structured streaming's file sink (`_spark_metadata`), Iceberg table specification (`metadata/*.metadata.json`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DELTA, HUDI, ICEBERG, SPARK_SINK = "Delta", "Hudi", "Iceberg", "Spark streaming"
LOG_DIRECTORIES = {"_delta_log": DELTA, ".hoodie": HUDI, "_spark_metadata": SPARK_SINK}
ICEBERG_DIRECTORY = "metadata"
_ICEBERG_FILE = re.compile(r"(v\d+|\d+-[0-9a-f-]{36})(\.gz|\.zst)?\.metadata\.json(\.gz|\.zst)?")


@dataclass(frozen=True, slots=True)
class TableLog:
    """The table below `root` has a log of this `kind`."""

    kind: str
    root: str


def log_of(uri: str) -> TableLog | None:
    """The log that a file or directory belongs to by its name, None for all others."""
    names = uri.split("/")
    for index, name in enumerate(names):
        if name in LOG_DIRECTORIES:
            return TableLog(LOG_DIRECTORIES[name], "/".join(names[:index]))
    if is_iceberg_log("/".join(names[-2:])):
        return TableLog(ICEBERG, "/".join(names[:-2]))
    return None


def is_iceberg_log(path: str) -> bool:
    """Whether `metadata/NAME` is a version of an Iceberg table."""
    directory, _, name = path.partition("/")
    return directory == ICEBERG_DIRECTORY and _ICEBERG_FILE.fullmatch(name) is not None


def iceberg_version(name: str) -> int:
    """The number of the version in the name of an Iceberg metadata file."""
    return int(re.sub(r"\D.*", "", name.removeprefix("v")) or 0)
