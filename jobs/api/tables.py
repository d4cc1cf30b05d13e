"""Tables in memory as the input of a job: written to a Parquet file that is named by its content.

The file is beside the output, where the job's workers can read it: on a disk or in an object store. The same table
gives the same name, and an existing file is not written again, so that a second call resumes the
job.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tirazh.errors import InputError, RequestError

# A table is compressed in the driver's memory and written at once; large inputs belong in files.
MAX_TABLE_BYTES = 256 << 20
# Several parts share a row group and each decodes it from its start, so row groups are small.
_ROW_GROUP_ROWS = 10_000


@contextmanager
def table_as_file(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings with the table in `input`, if there is one, replaced by the URI of its file.

    The file is kept, also when the job fails, and removed only when this call wrote it and the
    request was refused. Raises RequestError for a table that is too large and an output that has no
    directory above it.
    """
    table = settings.get("input")
    if not hasattr(table, "__arrow_c_stream__") or not settings.get("output"):
        yield dict(settings)
        return
    from tirazh.pipeline.storage.filesystem import Storage, join

    data = _parquet_bytes(table)
    storage, directory = Storage(settings.get("endpoint_url")), _input_directory(settings["output"])
    name = f"table-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    is_new = name not in storage.names(directory)
    if is_new:
        storage.write(join(directory, name), data)
    try:
        yield {**settings, "input": join(directory, name)}
    except RequestError:
        if is_new:
            storage.remove(join(directory, name))
            if not storage.names(directory):
                storage.remove(directory, recursive=True)
        raise


def _parquet_bytes(table: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tirazh.pipeline.input.schemas.arrow_types import storable, unwritable_column

    try:
        arrow = storable(pa.table(table))
    except (pa.ArrowException, TypeError) as error:
        raise InputError(
            f"the {type(table).__name__} given as input is no table that Arrow can read: {error}"
        ) from error
    if arrow.nbytes > MAX_TABLE_BYTES:
        raise RequestError(
            f"the table given as input holds {arrow.nbytes >> 20:,} MiB, more than the {MAX_TABLE_BYTES >> 20} MiB "
            "that a table in memory may have; write it to Parquet files and name them as the input"
        )
    # The name is the hash of these bytes, so they must not depend on the time or the process.
    sink = io.BytesIO()
    try:
        pq.write_table(arrow, sink, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    except pa.ArrowException as error:
        name = unwritable_column(arrow.schema)
        column = f" because of its column {name!r} ({arrow.schema.field(name).type})" if name is not None else ""
        raise InputError(f"the table given as input cannot be written as Parquet{column}: {error}") from error
    return sink.getvalue()


def _input_directory(output: Any) -> str:
    """`PARENT/_NAME-input` for the output `PARENT/NAME`; readers of PARENT skip names that begin with `_`."""
    from tirazh.pipeline.storage.filesystem import full_uri

    parent, _, name = full_uri(str(output)).rstrip("/").rpartition("/")
    if not name or not parent or parent.endswith("/"):
        raise RequestError(f"output {output} must be a directory below another one when the input is a table in memory")
    return f"{parent}/_{name}-input"
