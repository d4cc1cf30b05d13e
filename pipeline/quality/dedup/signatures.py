"""What deduplication keeps of a row: a hash of its normalised text, and the bands of its MinHash signature."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.minhash import BANDS, NGRAM, minhash, to_bands

EXACT = "exact"
BAND_NAMES = tuple(f"band_{band:02d}" for band in range(BANDS))
HASH_BYTES = 16
# Between the texts of two columns. Normalised texts do not contain it, because it counts as white space.
_SEPARATOR = "\x1f"


def signature_schema(config: DedupConfig) -> pa.Schema:
    """The columns of `signatures`."""
    bands = BAND_NAMES if config.near is not None else ()
    fields: list[pa.Field[Any]] = [pa.field(EXACT, pa.binary(HASH_BYTES))]
    return pa.schema(fields + [pa.field(name, pa.uint64()) for name in bands])


def signatures(table: pa.Table, config: DedupConfig) -> pa.Table:
    """The signatures of the rows of `table`, one row each, in order.

    `exact` is 16 bytes, the blake2b hash of the normalised text. With `config.near` there are 16 columns `band_00` …
    `band_15`, uint64, null for texts with fewer than 12 characters: those are compared for equality only. All
    columns are null in a row whose texts are null (in all columns) or cannot be read. Such a row is no duplicate.
    """
    texts = normalised_texts(table, config.columns)
    hashes = [None if text is None else _hash(text) for text in texts]
    columns: list[pa.Array[Any]] = [pa.array(hashes, pa.binary(HASH_BYTES))]
    if config.near is not None:
        columns += _bands(texts)
    return pa.Table.from_arrays(columns, schema=signature_schema(config))


def normalised_texts(table: pa.Table, columns: Sequence[str]) -> list[str | None]:
    """The text of every row that is compared; None where there is none.

    Each column is normalised by Unicode's NFKC, case folding, and one space for every run of white space. Several
    columns are joined; a null among them counts as empty.
    """
    values = [values_of(table.column(name)) for name in columns]
    return [_join(row) for row in zip(*values, strict=True)]


def _join(row: tuple[Any, ...]) -> str | None:
    if all(value is None for value in row) or any(isinstance(value, BrokenText) for value in row):
        return None
    return _SEPARATOR.join("" if value is None else normalise(str(value)) for value in row)


def normalise(text: str) -> str:
    """`text` in the form that is compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def _bands(texts: Sequence[str | None]) -> list[pa.Array[Any]]:
    """The columns of the bands."""
    long_enough = [text for text in texts if text is not None and len(text) >= NGRAM]
    is_missing = np.fromiter((text is None or len(text) < NGRAM for text in texts), np.bool_, len(texts))
    values = np.zeros((len(texts), BANDS), np.uint64)
    if long_enough:
        values[~is_missing] = to_bands(minhash(long_enough))
    return [pa.array(values[:, band], pa.uint64(), mask=is_missing) for band in range(BANDS)]
