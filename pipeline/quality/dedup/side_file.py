"""Side files: the signatures of one part, as a Parquet file beside its receipt.

The bytes of hashes cannot be compressed, so a row takes 144 bytes (16 without `near`). A task reads the column of
its band alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tirazh.errors import JobError
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.signatures import HASH_BYTES, signature_schema
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

_KEY = b"tirazh.signatures"


@dataclass(frozen=True, slots=True)
class SideFile:
    """The side file of a part: the part's index in the plan, and the URI of the file."""

    part: int
    uri: str


def to_side_file(table: pa.Table, config: DedupConfig, *, eligible: npt.NDArray[np.bool_] | None = None) -> bytes:
    """Serialise what `signatures` returned for a part. Equal tables give equal bytes.

    Rows that are not `eligible` (bool [rows]) are stored as null: they take no part in this job's deduplication,
    nor in that of later jobs that name the output in `against:`.
    """
    if eligible is not None:
        table = pa.Table.from_arrays(
            [pc.if_else(pa.array(eligible), column, pa.scalar(None, column.type)) for column in table.columns],
            schema=table.schema,
        )
    sink = io.BytesIO()
    described = table.replace_schema_metadata({_KEY: _describe(config)})
    pq.write_table(described, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def from_side_file(data: bytes, config: DedupConfig) -> pa.Table:
    """The signatures in the bytes of a side file.

    Raises ValueError, with the reason, for bytes that are no side file, or one of other columns or of another version.
    """
    return _read(pa.BufferReader(data), config, signature_schema(config).names)


def read_side_file(source: str | bytes, storage: Storage, config: DedupConfig, names: Sequence[str]) -> pa.Table:
    """The columns `names` of a side file, given by its URI or its bytes; the other columns are not read.

    Raises JobError for a damaged file, InputError if there is none, StorageError if the storage does not answer.
    """
    if isinstance(source, bytes):
        return _read(pa.BufferReader(source), config, names)
    found = _try_read(source, storage, config, names)
    if isinstance(found, str):
        raise JobError(f"{show_uri(source)} cannot be used: {found}; remove it and run the job again")
    return found


def is_usable(uri: str, storage: Storage, config: DedupConfig) -> bool:
    """Whether a file is a side file with the signatures of `config`. Reads its footer only.

    Raises InputError if there is no such file, StorageError if the storage does not answer.
    """
    return not isinstance(_try_read(uri, storage, config, ()), str)


def _try_read(uri: str, storage: Storage, config: DedupConfig, names: Sequence[str]) -> pa.Table | str:
    """The columns, or the reason why the file cannot be used."""

    def read() -> pa.Table | str:
        with storage.open(uri) as file:
            try:
                return _read(file, config, names)
            except ValueError as error:  # inside of `open` it would count as a failure of the storage
                return str(error)

    return keep_trying(read)


def _read(file: Any, config: DedupConfig, names: Sequence[str]) -> pa.Table:
    """Raise ValueError, with the reason, for anything but a side file that has the signatures of `config`."""
    try:
        opened = pq.ParquetFile(file)
        found = (opened.metadata.metadata or {}).get(_KEY, b"")
        wanted = signature_schema(config)
        if not _is_same(found, config) or any(
            opened.schema_arrow.field(name).type != wanted.field(name).type for name in names
        ):
            raise ValueError("it holds no signatures of these columns and this version")
        return opened.read(columns=list(names))
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow's own, for a footer that cannot be decoded.
        raise ValueError("it is damaged") from error


def _describe(config: DedupConfig) -> bytes:
    values = {"version": config.version, "columns": list(config.columns), "near": config.near is not None}
    return json.dumps(values, ensure_ascii=False, sort_keys=True).encode()


def _is_same(found: bytes, config: DedupConfig) -> bool:
    """Whether a file was described as one that has the columns of `config`. Its threshold does not matter."""
    return found == _describe(config) or found == _describe(_with_bands(config))


def _with_bands(config: DedupConfig) -> DedupConfig:
    return DedupConfig(columns=config.columns, near=1.0, version=config.version)


def hashes_of(column: pa.ChunkedArray[Any]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """The hashes of a column of 16 bytes, uint64 [rows, 2], and which rows have one, bool [rows]."""
    present = _present(column)
    filled: Any = pc.fill_null(cast(Any, column.combine_chunks()), b"\0" * HASH_BYTES)
    buffer = filled.buffers()[1]
    values = np.frombuffer(buffer, "<u8", 2 * len(filled), filled.offset * HASH_BYTES) if buffer else np.empty(0, "<u8")
    return values.reshape(-1, 2), present


def numbers_of(column: pa.ChunkedArray[Any]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """The numbers of a column of a band, uint64 [rows] (0 for null), and which rows have one, bool [rows]."""
    return cast(Any, pc.fill_null(cast(Any, column), 0)).to_numpy(), _present(column)


def _present(column: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), np.bool_)
