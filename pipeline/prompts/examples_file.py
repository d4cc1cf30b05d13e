"""Reads the file of few-shot examples: Parquet, or a text format that is read as an input, too."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError
from tirazh.pipeline.input.listing.conversions import is_text_file
from tirazh.pipeline.input.listing.without_parquet import PARQUET_MAGIC
from tirazh.pipeline.input.text_files.tables import parse_table
from tirazh.pipeline.storage.errors import show_uri


def parse_examples(uri: str, data: bytes) -> pa.Table:
    """Parse the content of the file `uri`. Raises InputError."""
    if is_text_file(uri) and not data.startswith(PARQUET_MAGIC):
        return parse_table(data, uri)
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--examples {show_uri(uri)} is not a Parquet file: {error}") from error
