"""Measures the decoded bytes of columns whose footers do not tell them, on a sample of the input.

A dictionary stores a text that repeats once, so a column chunk of 1 MB may decode to gigabytes. A few row
groups of a few files are read; the others are taken to be like them. Nothing of it depends on time or on
chance, so the same input gives the same sizes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tirazh.pipeline.input.damage import is_unsupported
from tirazh.pipeline.input.footers import Footer, RowGroup, is_within
from tirazh.pipeline.storage.filesystem import Storage

_FILES = 8
_GROUPS = 3  # of each file
_THREADS = 2  # each holds the dictionary of a column chunk
# A column chunk of up to this many bytes (uncompressed) is read as a whole, as dictionary and indices;
# otherwise the first rows of the row group are.
_MAX_CHUNK_BYTES = 4 << 20
_MAX_CELLS = 1 << 18
_FIRST_ROWS = 1_024
_FIRST_CELLS = 1 << 16
_FIRST_BYTES = 16 << 20
_BATCH_ROWS = 16
# Sizes of ordinary columns, which hardly repeat, stay those of the footer.
_NOTICEABLE = 1.5


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows of one file, and the decoded bytes of its coded columns in them: of those in the prompt, and of all."""

    rows: int
    text_bytes: float
    all_bytes: float


def with_decoded_sizes(storage: Storage, footers: Sequence[Footer], *, text_columns: Sequence[str]) -> list[Footer]:
    """Return the footers with the decoded sizes of their row groups, as far as a sample shows them.

    `text_columns` are the columns in the prompt. Opens at most 8 files, and none whose footer tells all sizes.
    A file that cannot be read keeps the sizes of its footer; the job that reads it says why.
    """
    chosen = _choose([index for index, footer in enumerate(footers) if footer.coded_columns], footers)
    texts = frozenset(text_columns)
    with ThreadPoolExecutor(_THREADS) as threads:
        samples = dict(
            zip(chosen, threads.map(lambda index: _sample(storage, footers[index], texts), chosen), strict=True)
        )
    pa.default_memory_pool().release_unused()  # the driver keeps little in memory, and runs as long as the job
    pooled = _add([sample for groups in samples.values() for sample in groups.values()])
    return [_decoded(footer, samples.get(index, {}), pooled) for index, footer in enumerate(footers)]


def _choose(candidates: Sequence[int], footers: Sequence[Footer]) -> list[int]:
    """The largest file, where one error costs most, and others in equal distances."""
    if len(candidates) <= _FILES:
        return list(candidates)
    largest = max(candidates, key=lambda index: sum(group.coded_bytes for group in footers[index].row_groups))
    others = [index for index in candidates if index != largest]
    return sorted([largest, *(others[len(others) * number // (_FILES - 1)] for number in range(_FILES - 1))])


def _sample(storage: Storage, footer: Footer, text_columns: frozenset[str]) -> dict[int, _Sample]:
    """Measure a few row groups of a file: by their indices."""
    groups = [index for index, group in enumerate(footer.row_groups) if group.rows and group.coded_bytes]
    chosen = {groups[len(groups) * number // _GROUPS] for number in range(_GROUPS)} if groups else set()
    with storage.open(footer.file.uri) as file:
        try:
            metadata = pq.read_metadata(file)
            return {index: _sample_group(file, metadata, index, footer, text_columns) for index in sorted(chosen)}
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # an outage; for data that it cannot decode pyarrow raises an OSError without errno
            return {}


def _sample_group(
    file: Any, metadata: pq.FileMetaData, index: int, footer: Footer, text_columns: frozenset[str]
) -> _Sample:
    """Measure the coded columns of one row group, as bytes of all of its rows."""
    group, rows = footer.row_groups[index], footer.row_groups[index].rows
    names = set(footer.schema.names)
    flat = [path for path in footer.coded_columns if path in names]
    whole = flat if group.coded_bytes <= _MAX_CHUNK_BYTES and rows * len(flat) <= _MAX_CELLS else []
    sizes = _measure_whole(file, metadata, index, whole)
    rest = [path for path in footer.coded_columns if path not in sizes]
    sizes |= _measure_first(file, metadata, index, rest, rows)
    return _Sample(
        rows, sum(size for path, size in sizes.items() if is_within(path, text_columns)), sum(sizes.values())
    )


def _measure_whole(file: Any, metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> dict[str, float]:
    """The decoded bytes of whole column chunks. Empty if pyarrow cannot read their encoding as a dictionary."""
    if not columns:
        return {}
    parquet = pq.ParquetFile(file, metadata=metadata, read_dictionary=list(columns), pre_buffer=True)
    try:
        table = parquet.read_row_group(group, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        if is_unsupported(error):
            return {}
        raise
    return {name: sum(map(decoded_bytes, table.column(name).chunks)) for name in columns}


def _measure_first(
    file: Any, metadata: pq.FileMetaData, group: int, columns: Sequence[str], rows: int
) -> dict[str, float]:
    """The decoded bytes of whole column chunks, after the first rows."""
    if not columns:
        return {}
    parquet = pq.ParquetFile(file, metadata=metadata, buffer_size=1 << 20, pre_buffer=False)
    wanted = max(_BATCH_ROWS, min(_FIRST_ROWS, _FIRST_CELLS // len(columns)))
    sizes: dict[str, float] = {}
    read = 0
    for batch in _batches(parquet, group, columns):
        read += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            sizes[name] = sizes.get(name, 0) + decoded_bytes(column)
        if read >= wanted or sum(sizes.values()) >= _FIRST_BYTES:
            break
    return {name: size * rows / max(1, read) for name, size in sizes.items()}


def _batches(parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    yield from parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=list(columns))


def decoded_bytes(array: pa.Array[Any]) -> int:
    """The bytes of an array of Arrow, with a dictionary written out."""
    if not isinstance(array, pa.DictionaryArray):
        return int(array.nbytes)
    values: Any = array.dictionary
    lengths = pc.binary_length(values)
    return int(pc.sum(lengths.take(array.indices)).as_py() or 0) + 4 * len(array)


def _add(samples: Sequence[_Sample]) -> _Sample:
    return _Sample(
        sum(sample.rows for sample in samples),
        sum(sample.text_bytes for sample in samples),
        sum(sample.all_bytes for sample in samples),
    )


def _decoded(footer: Footer, samples: Mapping[int, _Sample], pooled: _Sample) -> Footer:
    """The footer with decoded sizes: of its sampled row groups by their samples, of the others by those of the file,
    of a file without samples by those of the input.
    """
    rest = _add(list(samples.values())) if samples else pooled
    if not footer.coded_columns or not rest.rows:
        return footer
    groups = enumerate(footer.row_groups)
    return replace(footer, row_groups=tuple(_decoded_group(group, samples.get(index, rest)) for index, group in groups))


def _decoded_group(group: RowGroup, sample: _Sample) -> RowGroup:
    share = group.rows / sample.rows
    return RowGroup(
        group.rows,
        group.text_bytes + _more(group.coded_text_bytes, sample.text_bytes * share),
        group.all_bytes + _more(group.coded_bytes, sample.all_bytes * share),
    )


def _more(stored: int, decoded: float) -> int:
    """The bytes to be added to those that the footer tells."""
    return round(decoded) - stored if decoded > _NOTICEABLE * stored else 0
