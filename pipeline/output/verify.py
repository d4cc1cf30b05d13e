"""Verifies an output: every row of the current input is in it exactly once, and every file is unchanged.

Each check names what is wrong in one sentence. A damaged file never ends the verification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, OutputError, StorageError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.compare_input import CurrentInput, first_differences
from tirazh.pipeline.output.ledger import describe_parts
from tirazh.pipeline.output.names import MANIFEST, OWN, PLAN, RECEIPTS, REPORT, SUCCESS, OutputFiles
from tirazh.pipeline.output.plan_file import plan_values, read_plan
from tirazh.pipeline.output.quality import QUALITY_FACTS
from tirazh.pipeline.output.receipt import Receipt, ReceiptSettings, check_belongs, make_receipt, read_footer
from tirazh.pipeline.output.rows.source_rows import read_source_rows
from tirazh.pipeline.output.seal import check_page, read_sealed_json
from tirazh.pipeline.output.stray_files import find_stray_files
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote

# Each thread holds a whole part file in memory, and compares its rows with those of the input.
_THREADS = 4
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The result of `verify`.

    `problems` are sentences; without any, every row of the input is there exactly once and every file is
    intact. `notes` are sentences about what is no problem.
    """

    output: str
    parts: int
    parts_expected: int
    rows: int
    rows_expected: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def verify(output: str, endpoint_url: str | None = None, *, skip_input: bool = False) -> Verification:
    """Check that every input row is in `output` exactly once and that every file is unchanged.

    Reads all parts completely. The input is listed, and files that were written again are compared with the
    output row by row; `skip_input` leaves that out. Where it is comes from plan.json, its endpoint from the
    manifest unless `endpoint_url` is given. Raises OutputError for a directory that is not the output of a job.
    """
    files = OutputFiles.at(output, Storage(endpoint_url))
    try:
        plan = _read_plan(files)
        manifest, problems = _read_manifest(files)
        current = None
        if not skip_input:
            storage = Storage(endpoint_url or _text_of(manifest, "endpoint_url"))
            current = CurrentInput.of(plan, storage, files, _text_of(manifest, "key"))
        return _Check(files, plan, output, current).run(manifest, problems)
    except _DamagedPlanError as error:
        return Verification(output=output, parts=0, parts_expected=0, rows=0, rows_expected=0, problems=(str(error),))
    except StorageError as error:
        if not is_remote(files.directory) or endpoint_url is not None:
            raise
        raise StorageError(f"{error}; give --endpoint-url if it is on an S3-compatible server") from error


class _DamagedPlanError(Exception):
    """Without its plan nothing else in an output can be verified."""


def _read_plan(files: OutputFiles) -> Plan:
    name = f"{OWN}/{PLAN}"
    try:
        data = files.storage.read(files.own(PLAN))
    except InputError:
        if files.storage.names(files.own()) or files.storage.names(files.own(RECEIPTS)):
            raise _DamagedPlanError(f"{name} is missing, so nothing else can be verified") from None
        raise OutputError(f"{show_uri(files.directory)} is not the output of a job: it has no {name}") from None
    try:
        plan = read_plan(files)
        assert plan is not None
        stored = read_sealed_json(data)
        # Arrow prints some types differently once they are read from a serialised schema.
        printed = ("arrow_schema", "columns")
        if any(stored.get(field) != value for field, value in plan_values(plan).items() if field not in printed):
            raise ValueError("its values contradict each other")
    except ValueError as error:
        raise _DamagedPlanError(f"{name} is damaged or was changed: {error}") from error
    except OutputError as error:
        if "earlier version" in str(error):
            raise
        raise _DamagedPlanError(f"{name} is damaged or was changed; nothing else can be verified") from error
    return plan


@dataclass(frozen=True, slots=True)
class _CheckedPart:
    """`receipt` is the stored one, None if it or its part is not intact. `rows` are those in the file.

    `difference` is a clause about rows of the input that have changed.
    """

    rows: int
    receipt: Receipt | None
    problem: str | None
    difference: str | None = None


@dataclass(frozen=True, slots=True)
class _Check:
    """One verification of `files`; `current_input` is None if the input is not to be compared."""

    files: OutputFiles
    plan: Plan
    output: str
    current_input: CurrentInput | None

    def run(self, manifest: dict[str, Any] | None, problems: list[str]) -> Verification:
        """Check everything. `problems` are those found so far."""
        stray, notes = find_stray_files(self.plan, self.files)
        problems = [*stray, *problems]
        sizes = self.files.storage.names(self.files.directory)
        existing = [part for part in self.plan.parts if part.name in sizes]
        missing = [part.name for part in self.plan.parts if part.name not in sizes]
        if missing:
            problems.append(f"{len(missing)} of {len(self.plan.parts)} parts are missing: {_first_names(missing)}")
        with ThreadPoolExecutor(_THREADS) as threads:
            checked = list(threads.map(self._check_part, existing))
        problems += [each.problem for each in checked if each.problem is not None]
        receipts = [each.receipt for each in checked if each.receipt is not None]
        if manifest is not None and len(receipts) == len(self.plan.parts):
            problems += _check_manifest(manifest, self.plan, receipts)
        if SUCCESS in sizes:
            problems += self._check_report()
            named = self.files.storage.read(self.files.part(SUCCESS))
            problems += [f"{SUCCESS} does not name the plan of this output"] if named != self.plan.id.encode() else []
        if self.current_input is not None:
            differences = first_differences(existing, [each.difference for each in checked])
            more = self.current_input.describe(differences)
            problems, notes = problems + more[0], notes + more[1]
        if not problems and SUCCESS not in sizes:
            problems = ["all parts exist, but _SUCCESS does not: the job stopped before its last step; run it again"]
        return Verification(
            output=self.output,
            parts=len(existing),
            parts_expected=len(self.plan.parts),
            rows=sum(each.rows for each in checked),
            rows_expected=self.plan.output_rows,
            problems=tuple(problems),
            notes=tuple(notes),
        )

    def _check_report(self) -> list[str]:
        name = f"{OWN}/{REPORT}"
        try:
            check_page(self.files.storage.read(self.files.own(REPORT)), self.plan.id)
        except InputError:
            return [f"{name} is missing; `tirazh report` writes it again"]
        except ValueError as error:
            return [f"{name} is damaged or was changed: {error}; `tirazh report` writes it again"]
        return []

    def _check_part(self, part: Part) -> _CheckedPart:
        """Check one part file, its receipt and, if its input file was written again, its rows."""
        data = self.files.storage.read(self.files.part(part.name))
        try:
            metadata, _ = read_footer(data)
        except ValueError as error:
            problem = self._check_receipt(part, data)[1]
            return _CheckedPart(0, None, problem or f"{part.name} is damaged or was changed: {error}")
        receipt, problem = self._check_receipt(part, data)
        names = metadata.schema.to_arrow_schema().names
        if problem is None and names[: len(self.plan.schema)] != self.plan.schema.names:
            problem = f"{part.name} does not have all columns of the input"
        problem = problem or self._check_samples(part, data)
        difference = None
        if problem is None and receipt is not None and self.current_input is not None:
            difference = self.current_input.compare(part, data, receipt.input_version)
        return _CheckedPart(metadata.num_rows, receipt if problem is None else None, problem, difference)

    def _check_samples(self, part: Part, data: bytes) -> str | None:
        """What is wrong with the order of the samples of a part whose samples are rows, or None."""
        if self.plan.rows_per_input_row == 1:
            return None
        try:
            read_source_rows(data, self.plan.schema.names, self.plan.rows_per_input_row, self.plan.identity["prefix"])
        except (ValueError, KeyError, OSError, pa.ArrowException) as error:
            return f"{part.name} does not have the samples 0 to {self.plan.rows_per_input_row - 1} of each row: {error}"
        return None

    def _check_receipt(self, part: Part, data: bytes) -> tuple[Receipt | None, str | None]:
        """The receipt of a part, and the problem with it or with the part's bytes, if there is one."""
        try:
            stored = self.files.storage.read(self.files.receipt(part.name))
        except InputError:
            return None, f"{part.name} has no receipt in {OWN}/{RECEIPTS}"
        try:
            receipt = Receipt.from_json(stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"the receipt of {part.name} is damaged ({type(error).__name__})"
        if hashlib.sha256(data).hexdigest() != receipt.sha256:
            return receipt, f"{part.name} is damaged or was changed: its SHA-256 does not match its receipt"
        try:
            made = make_receipt(data, ReceiptSettings.of(self.plan.identity, receipt.gold_columns))
        except (ValueError, TypeError) as error:
            return receipt, f"{part.name} or its receipt is damaged or was changed: {error}"
        if not made.is_as_stored(stored):
            return receipt, f"the receipt of {part.name} is damaged or was changed"
        try:
            check_belongs(receipt, part=part.index, rows=self.plan.output_rows_of(part), plan_id=part.plan_id)
        except ValueError as error:
            return receipt, f"{part.name} {str(error).removeprefix('it ')}"
        return receipt, None


def _read_manifest(files: OutputFiles) -> tuple[dict[str, Any] | None, list[str]]:
    """The manifest, None if it is missing or not intact, and the problem with it."""
    name = f"{OWN}/{MANIFEST}"
    try:
        return read_sealed_json(files.storage.read(files.own(MANIFEST))), []
    except InputError:
        return None, [f"{name} is missing; run the same command again, which writes it"] if files.is_complete() else []
    except ValueError as error:
        return None, [f"{name} is damaged or was changed: {error}; run the same command again, which writes it"]


def _check_manifest(manifest: dict[str, Any], plan: Plan, receipts: Sequence[Receipt]) -> list[str]:
    expected = dict.fromkeys(QUALITY_FACTS) | describe_parts(plan, receipts)
    added_later = () if "confusion" in manifest else ("confusion",)  # earlier versions wrote none
    wrong = [name for name, value in expected.items() if manifest.get(name) != value and name not in added_later]
    if not wrong:
        return []
    details = f": {manifest.get(wrong[0])!r} instead of {expected[wrong[0]]!r}"[:200] if wrong[0] != "parts" else ""
    return [f"{OWN}/{MANIFEST} does not agree with the plan and the receipts in {', '.join(wrong)}{details}"]


def _text_of(manifest: dict[str, Any] | None, setting: str) -> str | None:
    """A setting of the job that is a text; None without it."""
    spec = (manifest or {}).get("spec")
    value = spec.get(setting) if isinstance(spec, dict) else None
    return value if isinstance(value, str) else None


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
