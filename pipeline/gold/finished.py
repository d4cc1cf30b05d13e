"""A finished output: its manifest, its parts and their columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.output.names import MANIFEST, OWN, PLAN, STEPS, OutputFiles
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_CLASSIFY = "classify"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedOutput:
    """`parts` are (name, rows) of the part files in the order of the rows, `columns` the schema of each of them.

    `spec` are the settings of the job as JSON values; of a job of several steps those of its classify step.
    """

    files: OutputFiles
    manifest: Mapping[str, Any]
    spec: Mapping[str, Any]
    parts: tuple[tuple[str, int], ...]
    columns: pa.Schema

    def tables(self, part: int, columns: Sequence[str], *, batch_rows: int) -> Iterator[pa.Table]:
        """Read some columns of a part in batches of at most `batch_rows` rows. Raises InputError for a damaged part."""
        name, rows = self.parts[part]
        uri, seen = self.files.part(name), 0
        with _opened(self.files, name) as parquet:
            for batch in parquet.iter_batches(batch_size=batch_rows, columns=list(columns)):
                seen += batch.num_rows
                yield pa.Table.from_batches([batch])
        if seen != rows:
            raise InputError(f"{show_uri(uri)} has {seen:,} rows instead of {rows:,}; `tirazh verify` finds such parts")


def open_finished(output: str, storage: Storage) -> FinishedOutput:
    """Open the output directory of a job. Raises OutputError unless it is finished and assigned labels: a job of
    classify, or of several steps with one of classify."""
    found = open_any(output, storage)
    place = show_uri(found.files.directory)
    spec = _classify_spec(found.manifest, place)
    if not found.parts:
        raise OutputError(f"{place} has no rows")
    return replace(found, spec=spec)


def open_any(output: str, storage: Storage) -> FinishedOutput:
    """Open the output directory of a job of any kind, which may have no rows; `spec` are the settings of the whole
    job. Raises OutputError unless it is finished."""
    files = OutputFiles.at(output, storage)
    place = show_uri(files.directory)
    manifest = _manifest(files)
    if manifest is None or files.completed_plan() != manifest["plan_id"]:
        names = storage.names(files.own())
        if PLAN in names or manifest is not None:
            raise OutputError(f"{place} is not finished; run its job again first")
        raise OutputError(f"{place} is not the output of a job: it has no {OWN}/{MANIFEST}")
    parts = tuple((str(part["name"]), int(part["rows"])) for part in manifest["parts"])
    columns = _columns(files, parts[0][0]) if parts else pa.schema([])
    return FinishedOutput(files=files, manifest=manifest, spec=dict(manifest["spec"]), parts=parts, columns=columns)


def _classify_spec(manifest: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    if manifest["kind"] == _CLASSIFY:
        return dict(manifest["spec"])
    steps = [step for step in manifest["spec"].get("steps") or [] if step.get("kind") == _CLASSIFY]
    if len(steps) == 1:
        return dict(steps[0])
    if steps:
        names = ", ".join(str(step.get("name")) for step in steps)
        raise OutputError(
            f"{place} has several classify steps ({names}); name the output of one of them, in {OWN}/{STEPS}/"
        )
    raise OutputError(f"{place} is an output of {manifest['kind']}; only those of classify have labels")


def _manifest(files: OutputFiles) -> dict[str, Any] | None:
    uri = files.own(MANIFEST)
    try:
        values = json.loads(files.storage.read(uri))
        # What is read of it later.
        if not isinstance(values["spec"], dict) or not isinstance(values["kind"], str):
            raise TypeError("a value has another type")
        for part in values["parts"]:
            str(part["name"]), int(part["rows"])
        return dict(values) | {"plan_id": str(values["plan_id"])}
    except InputError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{show_uri(uri)} is damaged ({type(error).__name__}); run the job again") from error


def _columns(files: OutputFiles, name: str) -> pa.Schema:
    with _opened(files, name) as parquet:
        return parquet.schema_arrow


@contextmanager
def _opened(files: OutputFiles, name: str) -> Iterator[pq.ParquetFile]:
    """Open a part. An error of Arrow while it is read becomes an InputError."""
    uri = files.part(name)
    with files.storage.open(uri) as file:
        try:
            yield pq.ParquetFile(file, **READ_OPTIONS)
        except pa.ArrowInvalid as error:
            raise InputError(f"{show_uri(uri)} is damaged; `tirazh verify` finds damaged parts") from error
