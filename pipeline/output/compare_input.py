"""Compares the input of an output with the input as it is now: by listing, and rewritten files row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.input.changes import InputChanges, compare_inputs, list_remaining
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.changed_input import compare_part
from tirazh.pipeline.output.generations.keys import known_rows
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage


@dataclass(frozen=True, slots=True)
class CurrentInput:
    """The input of `plan` as it is now. `changes` are those since it was planned.

    `repeated` are files that were added, all rows of which have keys that are in the output.
    """

    plan: Plan
    storage: Storage
    changes: InputChanges
    repeated: tuple[StoredFile, ...] = ()

    @classmethod
    def of(cls, plan: Plan, storage: Storage, output: OutputFiles, key: str | None) -> CurrentInput:
        """List the input that the plan of `output` names. A file without rows is not counted as added, nor is one all
        rows of which have values in the column `key` that are there already.

        A crossing is in the plan itself, so nothing of it can have changed.
        """
        if not plan.has_files:
            return cls(plan, storage, compare_inputs((), ()))
        now = list_remaining(storage, plan.identity["input"])
        changes = compare_inputs((planned.file for planned in plan.current_files.values()), now)
        limit = plan.identity["limit"]
        # With --limit the files behind the last row that was taken are not part of the job.
        added = () if limit is not None and plan.rows >= limit else changes.added
        added = tuple(file for file in added if _count_rows(storage, file) != 0)
        repeated = tuple(file for file in added if key is not None and _is_known(file, key, plan, storage, output))
        added = tuple(file for file in added if file not in repeated)
        return cls(plan, storage, InputChanges(changes.touched, changes.changed, changes.removed, added), repeated)

    def compare(self, part: Part, data: bytes, input_version: str) -> str | None:
        """Compare a part file with its rows in the input, if their file was written again, or if they are made of
        --vary.

        `data` are the bytes of the part file, which was made from `input_version` of the input file. Returns a
        clause that says what differs, or None.
        """
        uris = {each.file.uri for each in part.ranges}
        is_rewritten = any(file.uri in uris for file in self.changes.rewritten)
        is_gone = any(file.uri in uris for file in self.changes.removed)
        is_gone = is_gone or any(self.plan.is_superseded(each.file) for each in part.ranges)
        is_same = not is_rewritten and input_version == part.input_version
        if is_gone or (is_same and part.has_file):
            return None
        return compare_part(part, self.plan, self.storage, data)

    def describe(self, differences: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Return (problems, notes): sentences about the changes.

        `differences` has the clause of `compare` for the URIs of the files whose rows differ.
        """
        problems, notes = [], []
        for file in self.changes.removed:
            problems.append(
                f"the input file {show_uri(file.uri)} has been removed since the job was planned (archived inputs are "
                "not compared with --skip-input)"
            )
        for file in self.changes.rewritten:
            difference = differences.get(file.uri) or self._other_length(file)
            if difference is not None:
                problems.append(f"the input file {show_uri(file.uri)} has changed since the job ran: {difference}")
            else:
                notes.append(f"the input file {show_uri(file.uri)} was written again with the same rows")
        rewritten = {file.uri for file in self.changes.rewritten}
        problems += [
            f"rows of the output are not those of the input file {show_uri(uri)}: {difference}"
            for uri, difference in differences.items()
            if uri not in rewritten
        ]
        for file in self.changes.added:
            problems.append(
                f"the input file {show_uri(file.uri)} was added since the job was planned: its rows are not in this "
                "output"
            )
        notes += [
            f"the input file {show_uri(file.uri)} was added since: it has only rows whose keys are in the output"
            for file in self.repeated
        ]
        return problems, notes

    def _other_length(self, file: StoredFile) -> str | None:
        planned = self.plan.current_files[file.uri].cuts[-1]
        rows = _count_rows(self.storage, file)
        if self.plan.crossing is not None:
            planned = -(-planned // self.plan.crossing.num_rows)
        if rows == planned or (self.plan.identity["limit"] is not None and (rows or 0) > planned):
            return None
        return "it cannot be read" if rows is None else f"it has {rows:,} rows instead of {planned:,}"


def first_differences(parts: Sequence[Part], clauses: Sequence[str | None]) -> dict[str, str]:
    """The first clause of every input file, by its URI."""
    found: dict[str, str] = {}
    for part, clause in zip(parts, clauses, strict=True):
        if clause is not None:
            found.setdefault(part.file.uri, clause)
    return found


def _is_known(file: StoredFile, key: str, plan: Plan, storage: Storage, output: OutputFiles) -> bool:
    """Whether the output has the keys of all rows of a file."""
    try:
        footers = read_footers(storage, [file], text_columns=())
        parts = [output.part(part.name) for part in plan.parts]
        found = known_rows(key, plan.schema, footers, parts, output.storage).get(file.uri)
    except RequestError:  # it cannot be read, or lacks the column
        return False
    return found is not None and found.count == found.rows


def _count_rows(storage: Storage, file: StoredFile) -> int | None:
    """The number of rows of a file; None if it cannot be read."""
    try:
        (footer,) = read_footers(storage, [file], text_columns=())
    except InputError:
        return None
    return footer.rows
