"""The tasks of a filter step, one for each part: judge its rows, and write kept and dropped rows.

With `dedup` a part is judged first, and written once the duplicates among all parts are known. Every file is
created whole or not at all, and depends on the plan alone; so a task may be repeated, and two may run at once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, JobError
from tirazh.pipeline import schema
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import LeaseToken
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.receipt import FOOTER_KEY
from tirazh.pipeline.output.write import to_parquet
from tirazh.pipeline.steps.filtering.columns import FilterColumns
from tirazh.pipeline.steps.filtering.files import dropped_file, judged_file
from tirazh.pipeline.steps.filtering.quality import Judged, Rules
from tirazh.pipeline.steps.filtering.receipt import FilterReceipt
from tirazh.pipeline.steps.filtering.source import parse, read_source
from tirazh.pipeline.steps.filtering.verdicts import Verdict, split
from tirazh.pipeline.steps.passed_errors import first_errors
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying

_JUDGED_REASONS = schema.RESERVED + schema.DROP_REASONS
_MASKED = "masked"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """What the tasks need besides a part. `rules` is None for a step that only selects columns."""

    output: OutputFiles
    columns: FilterColumns
    rules: Rules | None
    lease: LeaseToken | None

    @property
    def guarded(self) -> GuardedOutput:
        return GuardedOutput(self.output, self.lease)


def judge_part(config: FilterConfig, part: Part) -> None:
    """Judge the rows of a part, and store them with their reasons and their signatures."""
    assert config.rules is not None, "rows are judged by rules"
    judged = config.rules.judge(read_source(part, config.output.storage))
    has_error = [error is not None for error in first_errors(judged.table, config.columns.errors).to_pylist()]
    if config.rules.dedup is not None:
        signatures = config.rules.signatures(judged, has_error)
        _store(config, config.output.signatures(part.name), signatures)
    table = judged.table.append_column(_JUDGED_REASONS, pa.array(judged.reasons, pa.list_(pa.string())))
    footer = _footer(part) | {_MASKED: judged.masked}
    data = to_parquet(table, footer=footer, columns=judged.table.schema)
    _store(config, judged_file(config.output, part.name), data)


def write_part(config: FilterConfig, item: tuple[Part, dict[int, str]]) -> FilterReceipt:
    """Write the files of a part and its receipt. `item` has the part and why rows of it are duplicates."""
    part, duplicates = item
    judged = _judged(part, config)
    table = judged.table
    reasons = [[*row, duplicates[number]] if number in duplicates else row for number, row in enumerate(judged.reasons)]
    return store_part(config, part, Judged(table, reasons, judged.masked))


def store_part(config: FilterConfig, part: Part, judged: Judged) -> FilterReceipt:
    """Write the kept and the dropped rows of a part, and its receipt."""
    table = judged.table
    verdict = split(table, judged.reasons, config.columns)
    footer = _footer(part)
    dropped = to_parquet(verdict.dropped, footer=footer, columns=table.schema) if verdict.dropped.num_rows else b""
    kept = to_parquet(verdict.kept, footer=footer, columns=table.schema)
    # The receipt comes last: with it the files of the part are complete.
    if dropped:
        _store(config, dropped_file(config.output, part.name), dropped)
    _store(config, config.output.part(part.name), kept)
    receipt = _receipt(part, verdict, kept, dropped, judged.masked)
    config.guarded.write(config.output.receipt(part.name), receipt.to_json())
    return receipt


def _judged(part: Part, config: FilterConfig) -> Judged:
    """The rows of a part and their reasons: as they were stored, or judged now."""
    if config.rules is None:
        table = read_source(part, config.output.storage)
        return Judged(table, [[] for _ in range(table.num_rows)], {})
    if not config.rules.needs_all_parts:
        return config.rules.judge(read_source(part, config.output.storage))
    return read_judged(config.output, part.name, config)


def read_judged(output: OutputFiles, name: str, config: FilterConfig) -> Judged:
    """Read a part that was judged, `name`. Raises JobError if it is damaged."""
    uri = judged_file(output, name)
    try:
        table = parse(keep_trying(lambda: config.output.storage.read(uri)))
    except (pa.ArrowException, OSError, ValueError) as error:
        config.guarded.remove(uri)
        raise JobError(f"{show_uri(uri)} is damaged; run the same command again, which makes it again") from error
    reasons: list[Any] = table.column(_JUDGED_REASONS).to_pylist()
    masked = json.loads((table.schema.metadata or {})[FOOTER_KEY])[_MASKED]
    return Judged(_without_own(table), reasons, masked)


def _without_own(table: pa.Table) -> pa.Table:
    """The table of a judged file as it was, without what was added to it."""
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != FOOTER_KEY}
    return table.drop_columns([_JUDGED_REASONS]).replace_schema_metadata(metadata or None)


def _store(config: FilterConfig, uri: str, data: bytes) -> None:
    """Create a file; one that exists with other bytes, which are damaged, is replaced."""
    storage = config.output.storage
    if config.guarded.create(uri, data, undo=partial(storage.remove, uri)):
        return
    try:
        is_same = keep_trying(lambda: storage.read(uri)) == data
    except InputError:  # removed in between
        is_same = False
    if not is_same:
        config.guarded.write(uri, data)


def _footer(part: Part) -> dict[str, Any]:
    return {"part": part.index, "rows": part.rows, "plan_id": part.plan_id, "input_version": part.file.version}


def _receipt(part: Part, verdict: Verdict, kept: bytes, dropped: bytes, masked: dict[str, int]) -> FilterReceipt:
    return FilterReceipt(
        part=part.index,
        plan_id=part.plan_id,
        input_sha256=part.file.version,
        input_rows=part.rows,
        rows=pq.read_metadata(pa.BufferReader(kept)).num_rows,
        errors=verdict.errors,
        file_bytes=len(kept),
        sha256=hashlib.sha256(kept).hexdigest(),
        dropped_bytes=len(dropped),
        dropped_sha256=hashlib.sha256(dropped).hexdigest() if dropped else "",
        not_kept=verdict.not_kept,
        reasons=verdict.reasons,
        masked=masked,
    )
