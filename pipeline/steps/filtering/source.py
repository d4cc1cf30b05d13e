"""The rows that a filter step reads: the finished parts of the step before it, known by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import JobError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, restore
from tirazh.pipeline.input.schemas.parquet_schema import read_elements
from tirazh.pipeline.input.schemas.planned_schema import planned_schema
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.planned_files import PlannedFile
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying


def source_files(manifest: Mapping[str, Any], output: OutputFiles) -> tuple[PlannedFile, ...]:
    """The part files of a finished step, whole, in order. The version of a file is its SHA-256.

    So a part that was made again with the same bytes is still the same input.
    """
    return tuple(
        PlannedFile(
            StoredFile(output.part(part["name"]), part["name"], part["file_bytes"], part["sha256"]), (0, part["rows"])
        )
        for part in manifest["parts"]
    )


def read_source(part: Part, storage: Storage) -> pa.Table:
    """Read the rows of a part of the step before, as `read_file` does."""
    return read_file(part.file, storage)


def read_file(file: StoredFile, storage: Storage) -> pa.Table:
    """Read a part file of the step before, with its exact types and metadata.

    Raises JobError if the file is no longer the one that was planned.
    """
    data = keep_trying(lambda: storage.read(file.uri))
    if hashlib.sha256(data).hexdigest() != file.version:
        raise JobError(
            f"{show_uri(file.uri)} was changed while the job ran; run the same command again, which makes it again"
        )
    return parse(data)


def parse(data: bytes) -> pa.Table:
    """Read a Parquet file that tirazh wrote, with the logical types that Arrow does not keep."""
    file = pq.ParquetFile(pa.BufferReader(data), **READ_OPTIONS)
    columns = planned_schema(file.schema_arrow, read_elements(data))
    return restore(file.read(), columns)
