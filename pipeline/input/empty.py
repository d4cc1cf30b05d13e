"""The input of a job that has no rows: one part of none, so that its output is a table that every reader opens.

`allow_empty` permits it. The part has the columns of the empty files; without any file, those that the job names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from tirazh.pipeline.crossing.crossing import PREFIX
from tirazh.pipeline.input.footers import Footer
from tirazh.pipeline.storage.disk import StoredFile

# Named like a crossing, which is no file either.
EMPTY = f"{PREFIX}no rows"


def empty_footer(schema: pa.Schema | None, names: Iterable[str]) -> Footer:
    """The footer of an input without rows: with the columns of `schema`, or without any with texts of these names."""
    columns = schema if schema is not None else pa.schema([(name, pa.string()) for name in dict.fromkeys(names)])
    return Footer(StoredFile(EMPTY, "empty", 0, "empty"), columns, ())


def is_empty_input(files: Sequence[StoredFile]) -> bool:
    """Whether planned files stand for an input without rows."""
    return [file.uri for file in files] == [EMPTY]
