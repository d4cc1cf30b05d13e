"""The sentence about files that were found in an input and are not read, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence

from tirazh.pipeline.storage.listing import PassedOver
from tirazh.pipeline.storage.secrets import redact_forms

NO_SUFFIX = "their names do not end with .parquet, .pq or .parq; a pattern such as 'DIR/*' reads Parquet of any name"
NOT_PARQUET = "they are not Parquet"
LINK_TO_FILE = "they are links to files that are read already"
_SHOWN = 3
_LONGEST_NAME = 60


def say_passed_over(found: Sequence[PassedOver]) -> tuple[str, ...]:
    """`2 files were passed over: b, c.parquet.gzip (their names do not end …)`; nothing if there are none."""
    if not found:
        return ()
    by_reason: dict[str, list[str]] = {}
    for each in found:
        by_reason.setdefault(each.reason, []).append(_shown(each.uri))
    groups = [f"{_named(names)} ({reason})" for reason, names in by_reason.items()]
    count = "1 file was" if len(found) == 1 else f"{len(found):,} files were"
    return (f"{count} passed over: {'; '.join(groups)}",)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _shown(uri: str) -> str:
    """The name of a file, on one line and in characters that every terminal shows."""
    name = redact_forms(uri.rpartition("/")[2])
    name = name if name.isprintable() else repr(name)[1:-1]
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
