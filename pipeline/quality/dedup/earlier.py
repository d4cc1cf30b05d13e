"""Earlier outputs that a job is compared with, and their signatures where no side file can be used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.side_file import is_usable, to_side_file
from tirazh.pipeline.quality.dedup.signatures import signatures
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying


@dataclass(frozen=True, slots=True, eq=False)
class EarlierPart:
    """A part of an earlier output: its index there, its file, and its side file if there is one.

    `dropped` are the rows of the side file that the earlier job dropped as duplicates, int64. `kept_column` is the
    column of the file, if it has it, that is false for rows that the earlier job dropped.
    """

    part: int
    uri: str
    side_file: str | None = None
    dropped: npt.NDArray[np.int64] | None = None
    kept_column: str = schema.KEPT


@dataclass(frozen=True, slots=True, eq=False)
class EarlierOutput:
    """An earlier output. `plan_id` tells one content of the directory from another."""

    directory: str
    plan_id: str
    parts: tuple[EarlierPart, ...]


def check_earlier(earlier: EarlierOutput, storage: Storage, config: DedupConfig) -> None:
    """Raise InputError unless the output has the columns that are compared, or side files of them.

    Looks at one part; takes two requests.
    """
    for part in earlier.parts[:1]:
        if part.side_file is None or not is_usable(part.side_file, storage, config):
            with storage.open(part.uri) as file:
                names = pq.read_schema(file).names
            _refuse_missing(part, names, config)


def make_missing(part: EarlierPart, storage: Storage, config: DedupConfig) -> bytes | None:
    """The bytes of a side file, made from the texts of a part; None if its own side file can be used.

    Raises InputError if the part does not have the columns that are compared.
    """
    if part.side_file is not None and is_usable(part.side_file, storage, config):
        return None
    return to_side_file(signatures(_read_texts(part, storage, config), config), config)


def _read_texts(part: EarlierPart, storage: Storage, config: DedupConfig) -> pa.Table:
    """The compared columns of the rows that the earlier job kept."""

    def read() -> pa.Table | list[str]:
        with storage.open(part.uri) as file:
            opened = pq.ParquetFile(file)
            names = list(opened.schema_arrow.names)
            if set(config.columns) - set(names):
                return names
            kept = [name for name in names if name == part.kept_column]
            return opened.read(columns=[*config.columns, *kept])

    found = keep_trying(read)
    if isinstance(found, list):
        raise _missing(part, found, config)
    return found.filter(found.column(part.kept_column)) if part.kept_column in found.column_names else found


def _refuse_missing(part: EarlierPart, names: list[str], config: DedupConfig) -> None:
    if set(config.columns) - set(names):
        raise _missing(part, names, config)


def _missing(part: EarlierPart, names: list[str], config: DedupConfig) -> InputError:
    name = next(name for name in config.columns if name not in names)
    return InputError(
        f"--against: {show_uri(part.uri)} has no column {name!r}, which --dedup compares{did_you_mean(name, names)}"
    )
