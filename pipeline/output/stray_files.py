"""Files in an output directory that do not belong to the output.

Readers of a directory differ in what they take for data: Arrow and Spark read files in subdirectories, and
pandas reads any name. So every file with a suffix of Parquet that is not a part is reported, and every
other visible file.
"""

from __future__ import annotations

from collections.abc import Iterator

from tirazh.pipeline.input.listing.files import PARQUET_SUFFIXES
from tirazh.pipeline.output.names import HEAD_FOLDER, OWN, STAGED, SUCCESS, OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.filesystem import join

# A directory that contains itself by a symbolic link would not end.
_MAX_DEPTH = 16


def find_stray_files(plan: Plan, output: OutputFiles) -> tuple[list[str], list[str]]:
    """Return (problems, notes): sentences about files that readers could take for data, and about leftovers."""
    problems, notes = [], []
    parts = {part.name for part in plan.parts}
    temporary = {uri.removeprefix(f"{output.directory}/") for uri in output.temporary_files()}
    for name in _names_below(output, output.directory, _MAX_DEPTH):
        path = name.split("/")
        if path[:2] in ([OWN, STAGED], [OWN, HEAD_FOLDER]):
            continue
        is_data = name.lower().endswith(PARQUET_SUFFIXES)
        is_hidden = any(each.startswith(("_", ".")) for each in path)
        if name in temporary:
            notes.append(f"{name} is a temporary file that an interrupted run left; the next run removes it")
        elif name in parts or name == SUCCESS or (is_hidden and not is_data):
            continue
        elif output.is_part_name(name):
            problems.append(f"{name} belongs to another job")
        else:
            problems.append(f"{name} is not a file of this job")
    if STAGED in output.storage.directories(output.own()):
        notes.append(
            f"{OWN}/{STAGED} holds the unfinished output of a run with --overwrite, --append or --retry-failed; "
            "readers do not see it"
        )
    return sorted(problems), sorted(notes)


def _names_below(output: OutputFiles, directory: str, depth: int) -> Iterator[str]:
    """The paths of all files below `directory`, relative to the output."""
    prefix = directory.removeprefix(output.directory).lstrip("/")
    for name in output.storage.names(directory):
        yield f"{prefix}/{name}" if prefix else name
    if depth:
        for name in output.storage.directories(directory):
            yield from _names_below(output, join(directory, name), depth - 1)
