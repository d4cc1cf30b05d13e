"""Small files at the end of a job: consecutive small parts become larger ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.input.parts import MAX_PART_ROWS, Part
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.generations.placed import placed_parts
from tirazh.pipeline.output.leases.lease import LeaseToken
from tirazh.pipeline.output.ledger import describe_parts, receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.quality import QUALITY_FACTS
from tirazh.pipeline.output.receipt import describe_part, receipt_columns
from tirazh.pipeline.output.rows.failed_rows import read_output_rows
from tirazh.pipeline.output.write import MadePart, WriteConfig, WriteStep, to_parquet
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.planned_files import Continued, PlacedPart
from tirazh.pipeline.spec import JobSpec
from tirazh.pipeline.storage.filesystem import keep_trying

# An output with so few files is left as it is.
_FEW = 4
# Files of earlier runs are not written again as long as there are not more small ones than this.
_MANY_SMALL = 32
# Only smaller files are joined, and a joined file is at most so large. The rows are those that a part may have: a
# joined part that is damaged later is made again as one.
_SMALL_BYTES = 1 << 20
_JOINED_BYTES = 16 << 20


def plan_join(base: Plan, sizes: Mapping[str, int], spec: JobSpec) -> Plan | None:
    """The plan in which consecutive small parts are joined; None if that would not halve the number of these files.

    They are parts of the last plan, which this run has made; all small parts once there are many. `sizes` are the bytes
    of the part files by their names. Parts whose size was asked for (`--part-rows`) stay.
    """
    if spec.part_rows is not None or len(base.parts) <= _FEW:
        return None
    small = {part.name for part in base.parts if sizes[part.name] < _SMALL_BYTES}
    if len(small) <= _MANY_SMALL:
        small = {part.name for part in base.parts if part.name in small and part.plan_id == base.id}
    groups = _groups(base, sizes, small)
    left_alone = len(base.parts) - len(small)
    if len(groups) - left_alone > len(small) // 2:
        return None
    all_new = all(len(group) > 1 for group in groups)
    placed = []
    for number, group in enumerate(groups):
        first = group[0]
        if len(group) == 1:
            placed.append(first)
            continue
        index, total = (number, len(groups)) if all_new else (first.index, first.total)
        placed.append(PlacedPart(index, total, "", _merge([each for part in group for each in part.ranges])))
    return replace(base, placed=tuple(placed), continued=Continued(base.id, "join"), stored_id=None)


def _groups(base: Plan, sizes: Mapping[str, int], small: Collection[str]) -> list[list[PlacedPart]]:
    """The parts in order; those of one list become one. Only parts with names in `small` are joined."""
    groups: list[list[PlacedPart]] = []
    rows = size = 0
    for placed, part in zip(placed_parts(base), base.parts, strict=True):
        own = sizes[part.name]
        may_follow = rows and part.name in small and rows + part.rows <= MAX_PART_ROWS and size + own <= _JOINED_BYTES
        if may_follow and (base.crossing is None or _is_next(groups[-1][-1], placed)):
            groups[-1].append(placed)
            rows, size = rows + part.rows, size + own
        else:
            groups.append([placed])
            rows, size = (part.rows, own) if part.name in small else (0, 0)
    return groups


def _is_next(before: PlacedPart, placed: PlacedPart) -> bool:
    """Whether the rows of a part follow those of another one in the same file."""
    number, _, stop = before.ranges[-1]
    return placed.ranges[0][:2] == (number, stop)


def _merge(ranges: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """The ranges in order, where those that follow each other in a file are one."""
    merged: list[tuple[int, int, int]] = []
    for number, start, stop in ranges:
        if merged and merged[-1][0] == number and merged[-1][2] == start:
            merged[-1] = (number, merged[-1][1], stop)
        else:
            merged.append((number, start, stop))
    return tuple(merged)


def join_parts(
    base: Plan,
    plan: Plan,
    spec: JobSpec,
    output: OutputFiles,
    staged: OutputFiles,
    parts: Sequence[Part],
    lease: LeaseToken,
) -> None:
    """Write `parts`, which are of the join `plan` of `base`, the plan of `output`, to `staged`. One at a time: each is
    held in memory."""
    layout = OutputLayout(columns=plan.schema, added=added_columns(spec, plan.schema))
    settings = receipt_settings(spec)
    step = WriteStep(
        WriteConfig(
            output=staged,
            layout=layout,
            parts={part.index: MadePart.of(part) for part in parts},
            tokenizer_dir="",
            receipts=settings,
            lease=lease,
        )
    )
    sources = _sources(base, plan)
    for part in parts:
        names = [each.name for each in sources[part.index]]
        tables = [
            read_output_rows(keep_trying(partial(output.storage.read, output.part(name))), layout) for name in names
        ]
        table = pa.concat_tables(tables).combine_chunks()
        footer = {
            "part": part.index,
            "rows": table.num_rows,
            "plan_id": part.plan_id,
            "input_version": part.input_version,
        }
        data = to_parquet(table, footer=footer, columns=layout.columns)
        columns = receipt_columns(table.column_names, settings)
        step.store(describe_part(table.select(columns), data, footer, settings), data)


def _sources(base: Plan, plan: Plan) -> dict[int, list[Part]]:
    """The parts of `base` that each part of `plan` has the rows of, by the number of the latter."""
    starts = {(part.ranges[0].file.uri, part.ranges[0].file.version, part.ranges[0].start): part for part in plan.parts}
    found: dict[int, list[Part]] = {}
    current: Part | None = None
    for part in base.parts:
        first = part.ranges[0]
        current = starts.get((first.file.uri, first.file.version, first.start), current)
        assert current is not None, "the first part of both plans begins with the same row"
        found.setdefault(current.index, []).append(part)
    return found


def facts_of(manifest: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The facts of a manifest that do not follow from its plan and its parts: a join leaves them as they are."""
    without_parts = replace(plan, files=(), placed=())
    derived = {"kind", "output", "spec", "responses", *QUALITY_FACTS, *describe_parts(without_parts, ())}
    return {name: value for name, value in manifest.items() if name not in derived}
