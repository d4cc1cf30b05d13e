"""The names of the files that a filter step writes besides its parts."""

from __future__ import annotations

from tirazh.pipeline.output.names import DROPPED, JUDGED, OutputFiles
from tirazh.pipeline.storage.filesystem import join


def dropped_directory(output: OutputFiles) -> str:
    """`OUTPUT/_dropped`, with the dropped rows; its files have the names of the parts."""
    return join(output.directory, DROPPED)


def dropped_file(output: OutputFiles, part_name: str) -> str:
    """The URI of the dropped rows of a part."""
    return join(output.directory, DROPPED, part_name)


def judged_file(output: OutputFiles, part_name: str) -> str:
    """The URI of a part whose rows are judged, while duplicates are not known yet. Removed at the end."""
    return output.own(JUDGED, part_name)
