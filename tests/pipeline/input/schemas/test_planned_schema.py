"""What the output keeps of a file's schema besides Arrow types."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import Footer, read_footers
from tirazh.pipeline.input.schemas.parquet_schema import Annotation, read_elements, with_elements
from tirazh.pipeline.input.schemas.planned_schema import copy_parquet_types, public_metadata, with_metadata_of
from tirazh.pipeline.storage.filesystem import Storage

# As parquet.thrift has them: a converted type is a number, a logical type a union.
ANNOTATIONS = {
    "ENUM": Annotation(b"\x08", b"\x4c\x00\x00"),
    "BSON": Annotation(b"\x28", b""),
    "GEOMETRY": Annotation(b"", b"\x0c\x22\x00\x00"),
    "a type of a later version of Parquet": Annotation(b"", b"\x0c\x50\x00\x00"),
}


def annotated_file(annotation: Annotation | None, **metadata: str) -> bytes:
    """A file of one column of bytes with a logical type that Arrow does not know."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"raw": [b"a", None]}).replace_schema_metadata(metadata or None), sink)
    elements = read_elements(sink.getvalue())
    if annotation is not None:
        elements[1] = elements[1].annotated(annotation)
    return with_elements(sink.getvalue(), elements)


def footer_of(path: Path, data: bytes) -> Footer:
    path.write_bytes(data)
    storage = Storage()
    return read_footers(storage, storage.walk(str(path)), text_columns=())[0]


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_a_logical_type_that_arrow_does_not_know_is_copied(kind: str, tmp_path: Path) -> None:
    schema = footer_of(tmp_path / "a.parquet", annotated_file(ANNOTATIONS[kind])).schema
    written = io.BytesIO()
    pq.write_table(pa.table({"raw": [b"b"], "label": ["x"]}), written)
    elements = read_elements(copy_parquet_types(written.getvalue(), schema))
    assert elements[1].annotation == ANNOTATIONS[kind]
    assert elements[2].annotation == read_elements(written.getvalue())[2].annotation
    assert public_metadata(schema) == {}


def test_files_whose_equal_bytes_mean_other_values_are_refused(tmp_path: Path) -> None:
    footers = [
        footer_of(tmp_path / "a.parquet", annotated_file(ANNOTATIONS["ENUM"])),
        footer_of(tmp_path / "b.parquet", annotated_file(None)),
    ]
    files = [(footer.file.key, footer.schema) for footer in footers]
    with pytest.raises(InputError, match=r"b\.parquet and a\.parquet .* column 'raw' is not stored in the same way"):
        with_metadata_of(footers[0].schema, files)


def test_files_of_two_calendars_of_spark_are_refused(tmp_path: Path) -> None:
    footers = [
        footer_of(tmp_path / "a.parquet", annotated_file(None, **{"org.apache.spark.legacyDateTime": ""})),
        footer_of(tmp_path / "b.parquet", annotated_file(None)),
    ]
    with pytest.raises(InputError, match="the calendar"):
        with_metadata_of(footers[0].schema, [(footer.file.key, footer.schema) for footer in footers])


def test_the_metadata_of_the_first_file_is_kept() -> None:
    first = pa.schema([pa.field("a", pa.int8(), metadata={"unit": "kg"})], {"owner": "us"})
    other = pa.schema([pa.field("a", pa.int8())], {"owner": "them"})
    kept = with_metadata_of(pa.schema([pa.field("a", pa.int64())], {"owner": "us"}), [("a", first), ("b", other)])
    assert kept.equals(
        pa.schema([pa.field("a", pa.int64(), metadata={"unit": "kg"})], {"owner": "us"}), check_metadata=True
    )
