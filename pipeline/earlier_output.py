"""Reads what an earlier output offers to the deduplication of a later job: its parts and their side files."""

from __future__ import annotations

import json
import re
from typing import Any

from tirazh.errors import InputError
from tirazh.pipeline import schema
from tirazh.pipeline.output.names import DUPLICATES, MANIFEST, OWN, SIGNATURES, OutputFiles
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.quality.dedup.earlier import EarlierOutput, EarlierPart
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

_INDEX = re.compile(r"part-(\d+)-of-")


def find_earlier_output(uri: str, storage: Storage) -> EarlierOutput | None:
    """The earlier output at `uri`; None if it is not the output directory of a job.

    Opens no part. Raises InputError for an output that is not complete, or whose manifest cannot be read.
    """
    files = OutputFiles.at(uri, storage)
    if OWN not in keep_trying(lambda: storage.directories(files.directory)):
        return None
    plan_id = keep_trying(files.completed_plan)
    if plan_id is None:
        raise InputError(f"--against {show_uri(files.directory)}: this output is not complete; finish its job first")
    dropped = _dropped(files)
    prefix = _prefix(files)
    stored = keep_trying(lambda: storage.names(files.own(SIGNATURES)))
    parts = []
    for name in sorted(keep_trying(files.parts)):
        index = _part_index(name)
        parts.append(
            EarlierPart(
                index,
                files.part(name),
                side_file=files.signatures(name) if name in stored else None,
                dropped=dropped.of(index).rows,
                kept_column=prefix + schema.KEPT,
            )
        )
    return EarlierOutput(files.directory, plan_id, tuple(sorted(parts, key=lambda part: part.part)))


def _part_index(name: str) -> int:
    found = _INDEX.match(name)
    assert found is not None, name  # `OutputFiles.parts` returns such names only
    return int(found[1])


def _dropped(files: OutputFiles) -> Duplicates:
    """The rows that the earlier job dropped as duplicates: none if it did not look for them."""
    if DUPLICATES not in files.storage.names(files.own()):
        return Duplicates({})
    try:
        return Duplicates.from_bytes(keep_trying(lambda: files.storage.read(files.duplicates)))
    except ValueError as error:
        raise InputError(f"--against: {show_uri(files.duplicates)} cannot be used: {error}") from error


def _prefix(files: OutputFiles) -> str:
    """The prefix of the columns that the earlier job added."""
    uri = files.own(MANIFEST)
    try:
        values: Any = json.loads(keep_trying(lambda: files.storage.read(uri)))
        return str(values["spec"].get("prefix", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--against: {show_uri(uri)} is damaged ({type(error).__name__})") from error
