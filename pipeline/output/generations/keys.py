"""Which rows of new files are in an output already, by the values of their key column.

The keys of the new files are held in memory, those of the output are read part by part. Values are compared
themselves, not hashes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.errors import InputError, RequestError, did_you_mean
from tirazh.pipeline.input.footers import Footer
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

# The rows whose keys are read at once.
_ROWS = 1 << 20


def known_rows(
    key: str, columns: pa.Schema, footers: Sequence[Footer], parts: Iterable[str], storage: Storage
) -> dict[str, RowMask]:
    """The rows of files that are left out, by the URIs of the files; files without such rows are not in it.

    A row is left out if a row of the output has its key, or an earlier row of the new files. `columns` are those of
    the output, and `parts` the URIs of its part files. Raises RequestError for a column that cannot be a key, and
    InputError for a row without a key.
    """
    _check_key(key, columns)
    by_file = [_keys_of(footer, key, columns, storage) for footer in footers]
    if not by_file:
        return {}
    chunks: list[Any] = [chunk for keys in by_file for chunk in keys.chunks]
    encoded: Any = pa.chunked_array(chunks).combine_chunks()
    encoded = encoded.dictionary_encode()
    places_N = encoded.indices.to_numpy(zero_copy_only=False)
    is_new_N = np.zeros(len(places_N), np.bool_)
    is_new_N[np.unique(places_N, return_index=True)[1]] = True
    is_new_N &= ~_known(encoded.dictionary, key, parts, storage)[places_N]
    ends = np.cumsum([footer.rows for footer in footers])
    return {
        footer.file.uri: RowMask.of(~own_N)
        for footer, own_N in zip(footers, np.split(is_new_N, ends[:-1]), strict=True)
        if not own_N.all()
    }


def _known(keys: Any, key: str, parts: Iterable[str], storage: Storage) -> NDArray[np.bool_]:
    """Whether each of `keys`, which are all different, is in the output."""
    known = np.zeros(len(keys), np.bool_)
    for uri in parts:
        column = keep_trying(partial(_column_of, uri, key, storage))
        found: Any = pc.index_in(column.cast(keys.type), value_set=keys).drop_null()
        known[found.to_numpy()] = True
    return known


def _column_of(uri: str, key: str, storage: Storage) -> Any:
    with storage.open(uri) as file:
        return _plain(pq.ParquetFile(file, **READ_OPTIONS).read(columns=[key]).column(0))


def _keys_of(footer: Footer, key: str, columns: pa.Schema, storage: Storage) -> Any:
    chunks: list[Any] = []
    for start in range(0, footer.rows, _ROWS):
        stop = min(footer.rows, start + _ROWS)
        part = Part(0, 1, footer.file, start, stop, row_bytes=footer.row_bytes)
        keys = _plain(keep_trying(partial(read_rows, part, storage, columns, only=[key])).column(0))
        if keys.null_count:
            row = start + int(np.flatnonzero(keys.is_null().to_numpy())[0])
            raise InputError(
                f"row {row} of {show_uri(footer.file.uri)} has no value in the key column {key!r}, so nothing tells "
                "whether the output has it already; give the row a key, or leave --key out"
            )
        chunks += keys.chunks
    return pa.chunked_array(chunks)


def _plain(column: Any) -> Any:
    """The values of a column, whatever its encoding."""
    kind: Any = column.type
    if isinstance(kind, pa.BaseExtensionType):
        storage: Any = kind.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], storage)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def _check_key(key: str, columns: pa.Schema) -> None:
    if key not in columns.names:
        known = did_you_mean(key, columns.names) or f"; its columns are {', '.join(columns.names)}"
        raise RequestError(f"--key: the input has no column {key!r}{known}")
    kind = columns.field(key).type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        raise RequestError(
            f"--key: column {key!r} is {kind}; choose a column of integers, texts, dates or other values that can be "
            "compared exactly"
        )
