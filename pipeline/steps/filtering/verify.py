"""Verifies the output of a filter step: kept and dropped rows are together the rows of the step before, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tirazh.errors import InputError, TirazhError
from tirazh.pipeline import schema
from tirazh.pipeline.input.changes import find_differing_value
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.schemas.arrow_types import take
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import MANIFEST, OWN, REPORT, SUCCESS, OutputFiles
from tirazh.pipeline.output.seal import check_page
from tirazh.pipeline.output.verify import Verification
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.steps.filtering.files import dropped_directory, dropped_file
from tirazh.pipeline.steps.filtering.finish import describe_filtered
from tirazh.pipeline.steps.filtering.receipt import FilterReceipt
from tirazh.pipeline.steps.filtering.source import parse, read_source

_THREADS = 4


@dataclass(frozen=True, slots=True)
class _Checked:
    """A part that was read. `rows` are those in its files."""

    rows: int
    receipt: FilterReceipt | None
    problem: str | None


def verify_filtered(
    files: OutputFiles, plan: Plan, source: Mapping[str, str], read: Callable[[Part], pa.Table] | None = None
) -> Verification:
    """Check the output `files` of a filter step. `source` has the versions of the files that it should be made from.

    `read` reads the rows that a part is made from; by default they are a part of the step before. Reads all rows of
    both steps.
    """
    existing = files.parts()

    def check(part: Part) -> _Checked:
        return _check_part(part, files, plan, read or (lambda each: read_source(each, files.storage)))

    with ThreadPoolExecutor(_THREADS) as threads:
        checked = list(threads.map(check, plan.parts))
    problems = [each.problem for each in checked if each.problem is not None]
    problems += _check_source(plan, source) + _check_names(plan, files)
    receipts = [each.receipt for each in checked if each.receipt is not None and each.problem is None]
    problems += _check_end(plan, files, receipts if len(receipts) == len(plan.parts) else None)
    return Verification(
        output=files.directory,
        parts=sum(part.name in existing for part in plan.parts),
        parts_expected=len(plan.parts),
        rows=sum(each.rows for each in checked),
        rows_expected=plan.rows,
        problems=tuple(problems),
    )


def _check_source(plan: Plan, source: Mapping[str, str]) -> list[str]:
    planned = {each.file.key: each.file.version for each in plan.files}
    if planned == source:
        return []
    return ["the rows of the step before are not those that it was made from; run the job again"]


def _check_names(plan: Plan, files: OutputFiles) -> list[str]:
    names = {part.name for part in plan.parts}
    foreign = [f"{name} is not a file of this job" for name in files.foreign()]
    foreign += [f"{name} belongs to another job" for name in sorted(files.parts()) if name not in names]
    dropped = files.storage.names(dropped_directory(files))
    return foreign + [f"_dropped/{name} belongs to another job" for name in sorted(dropped) if name not in names]


def _check_end(plan: Plan, files: OutputFiles, receipts: Sequence[FilterReceipt] | None) -> list[str]:
    """Check the manifest, the report and `_SUCCESS`."""
    if files.completed_plan() != plan.id:
        return [f"{SUCCESS} is missing or that of another plan: the job is not complete; run it again"]
    manifest = read_manifest(files)
    if manifest is None:
        return [f"{OWN}/{MANIFEST} is missing or damaged; run the same command again, which writes it"]
    problems = []
    if receipts is not None:
        expected = describe_filtered(plan, receipts)
        wrong = [name for name, value in expected.items() if manifest.get(name) != value]
        problems += [f"{OWN}/{MANIFEST} does not agree with the receipts in {', '.join(wrong)}"] if wrong else []
    try:
        check_page(files.storage.read(files.own(REPORT)), plan.id)
    except InputError:
        problems.append(f"{OWN}/{REPORT} is missing; `tirazh report` writes it again")
    except ValueError as error:
        problems.append(f"{OWN}/{REPORT} is damaged or was changed: {error}; `tirazh report` writes it again")
    return problems


def _check_part(part: Part, files: OutputFiles, plan: Plan, read: Callable[[Part], pa.Table]) -> _Checked:
    try:
        receipt = FilterReceipt.from_json(files.storage.read(files.receipt(part.name)))
        kept = _read(files.part(part.name), receipt.sha256, files)
        dropped = None
        if receipt.dropped_sha256:
            dropped = _read(dropped_file(files, part.name), receipt.dropped_sha256, files)
        rows = kept.num_rows + (dropped.num_rows if dropped is not None else 0)
        if (receipt.plan_id, receipt.part, receipt.input_sha256) != (plan.id, part.index, part.file.version):
            raise ValueError("its receipt is that of another part")
        difference = _difference(read(part), kept, dropped, receipt, plan)
    except InputError:
        return _Checked(0, None, f"{part.name}, its dropped rows or its receipt is missing")
    except TirazhError as error:
        return _Checked(0, None, f"{part.name}: {error}")
    except (ValueError, TypeError, pa.ArrowException, OSError) as error:
        return _Checked(0, None, f"{part.name} is damaged or was changed: {error}")
    return _Checked(rows, receipt, f"{part.name}: {difference}" if difference else None)


def _read(uri: str, sha256: str, files: OutputFiles) -> pa.Table:
    data = files.storage.read(uri)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("its SHA-256 does not match its receipt")
    return parse(data)


def _difference(
    source: pa.Table, kept: pa.Table, dropped: pa.Table | None, receipt: FilterReceipt, plan: Plan
) -> str | None:
    """A clause about rows of the step before that are not in exactly one of the files; None if all are."""
    is_kept = np.ones(source.num_rows, bool)
    is_kept[receipt.not_kept] = False
    numbers = np.arange(source.num_rows)
    is_inline = dropped is None and kept.num_rows == source.num_rows
    pairs = [(kept, numbers if is_inline else numbers[is_kept])]
    if dropped is not None:
        pairs.append((dropped, numbers[~is_kept]))
    if sum(table.num_rows for table, _ in pairs) != source.num_rows or any(len(n) != t.num_rows for t, n in pairs):
        return "kept and dropped rows are not all rows of the step before"
    # The errors of the last step become those of the job, with the names of their steps.
    changed = [*plan.identity.get("masked_columns", []), schema.ERROR]
    for table, rows in pairs:
        names = [name for name in table.column_names if name in source.column_names and name not in changed]
        found = find_differing_value(table.select(names), take(source.select(names), rows))
        if found is not None:
            return f"row {found[0]} differs from the step before in column {found[1]!r}"
    return None


def part_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of the parts of a finished step by name."""
    return {part["name"]: part["sha256"] for part in manifest["parts"]}
