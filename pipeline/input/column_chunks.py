"""Checks a Parquet footer for damage that would end the process.

pyarrow 20 to 26 ends the process (`std::terminate`) when `RowGroupMetaData.column(i)` is called on a column chunk
whose description contradicts the schema, such as a histogram of levels of another length. The reader of the same
library raises an exception for such a chunk, so it is asked first.
"""

from __future__ import annotations

import functools
import io
import struct
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq

_TIMEOUT_S = 60.0
# Touches what may end the process, in a process of its own.
_PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import pyarrow as pa, pyarrow.parquet as pq
metadata = pq.read_metadata(pa.BufferReader(sys.stdin.buffer.read()))
for index in range(metadata.num_row_groups):
    group = metadata.row_group(index)
    for number in range(group.num_columns):
        group.column(number)
"""


def check_column_chunks(metadata: pq.FileMetaData, tail: bytes) -> None:
    """Raise ValueError if pyarrow could not give the description of every column chunk, ArrowNotImplementedError for
    encrypted columns.

    `tail` are the last bytes of the file, which hold the whole footer. Takes about 8 µs a column chunk; a child
    process is started only for a footer that the reader finds unusual.
    """
    for index in range(metadata.num_row_groups):
        if metadata.row_group(index).num_columns != metadata.num_columns:
            raise ValueError(f"row group {index + 1} has another number of columns than the schema")
    # Without the data nothing can be read: the reader refuses every chunk, after it has checked its description.
    reader = pq.ParquetFile(pa.BufferReader(b"PAR1"), metadata=metadata, pre_buffer=False).reader
    unusual = {
        message
        for index in range(metadata.num_row_groups)
        for number in range(metadata.num_columns)
        if (message := _refusal(reader, index, number)) not in (_usual_refusal(), "")
    }
    if any("decrypt" in message.lower() for message in unusual):
        raise pa.ArrowNotImplementedError("it has encrypted columns; write it without encryption first")
    if unusual and not _can_be_described(tail):
        raise ValueError(min(unusual))


def _refusal(reader: pq.ParquetReader, group: int, column: int) -> str:
    try:
        reader.read_row_group(group, column_indices=[column], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        return str(error)
    return ""


@functools.cache
def _usual_refusal() -> str:
    """What the reader says about a chunk that is not damaged."""
    stream = io.BytesIO()
    # From buffers: to make an array of Python values, pyarrow imports pandas, which takes 45 MB.
    buffers = [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"a")]
    column = pa.Array.from_buffers(pa.string(), 1, buffers)
    pq.write_table(pa.Table.from_arrays([column], names=["text"]), stream)
    metadata = pq.read_metadata(pa.BufferReader(stream.getvalue()))
    return _refusal(pq.ParquetFile(pa.BufferReader(b"PAR1"), metadata=metadata, pre_buffer=False).reader, 0, 0)


def _can_be_described(tail: bytes) -> bool:
    """Whether a child process survives it. The child imports nothing from the working directory (-P)."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM], input=tail, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode >= 0
