"""What a run does about an input that has changed since the stored plan was made.

Finished rows are kept wherever they are still the rows of the input: a file that was written again with
the same rows, and a file that was archived after its parts were finished, are no reason to make anything
again. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline.input.changes import InputChanges, compare_inputs, find_difference
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.unify import difference_from
from tirazh.pipeline.output.generations.adding import Adding
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.rows.source_rows import read_source_rows
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

# Each thread holds the rows of a part twice.
_THREADS = 4
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Continuation:
    """Whether a run may continue the stored plan on the input as it is now.

    `plan` has the id and the parts of the stored plan, and the current versions of the files. `lines` are
    sentences for the user. `refusal` is the reason not to continue, None if there is none. `added` are the files
    that a run with `--append` adds.
    """

    plan: Plan
    lines: tuple[str, ...] = ()
    refusal: str | None = None
    added: tuple[StoredFile, ...] = ()

    @property
    def may_continue(self) -> bool:
        return self.refusal is None


def continue_plan(stored: Plan, plan: Plan, output: OutputFiles, adding: Adding | None = None) -> Continuation:
    """Compare the input of the stored plan with that of `plan`, which was made of the current input.

    Both must be of the same job. Files that were written again are compared with the finished parts row by
    row, and only those. With `adding` files may be added; with a key a file that was written again with other rows is
    one of them, if all of its earlier rows are in the output.
    """
    storage = output.storage
    changes = _changes(stored, plan, storage)
    if not changes:
        return Continuation(stored)
    parts, existing = _parts_by_file(stored), keep_trying(output.parts)
    delivered: tuple[StoredFile, ...] = ()
    if adding is not None and adding.key is not None:
        delivered = tuple(
            file
            for file in changes.rewritten
            if not any(part.name not in existing for part in parts.get(file.uri, ()))
            and _refuse_changed(_only(changes, (file,)), stored, plan, output, existing) is not None
        )
        changes = _only(changes, [file for file in changes.rewritten if file not in delivered])
    refusal = (
        (_refuse_added(changes, output) if adding is None else None)
        or _refuse_removed(changes, parts, existing)
        or _refuse_changed(changes, stored, plan, output, existing)
    )
    lines = tuple(_lines(changes, is_told_of_added=adding is None))
    continued = _at_current_versions(stored, {file.uri: file for file in changes.rewritten})
    added = (*changes.added, *delivered) if adding is not None else ()
    return Continuation(continued if changes.rewritten else stored, lines, refusal, added)


def _only(changes: InputChanges, rewritten: Sequence[StoredFile]) -> InputChanges:
    """The changes, with only some of the files that were written again."""
    touched, changed = (
        tuple(file for file in files if file in rewritten) for files in (changes.touched, changes.changed)
    )
    return replace(changes, touched=touched, changed=changed)


def _refuse_changed(
    changes: InputChanges, stored: Plan, plan: Plan, output: OutputFiles, existing: Mapping[str, int]
) -> str | None:
    """Why the files that were written again do not have the rows that were planned."""
    current = {file.uri: file for file in changes.rewritten}
    continued = _at_current_versions(stored, current)
    return (
        _refuse_schema(changes, stored, plan, output.storage)
        or _refuse_rewritten(changes, stored, plan)
        or _refuse_rows(_parts_of(continued, current), continued, output, existing)
    )


def _parts_of(plan: Plan, files: Collection[str]) -> list[Part]:
    """The parts with rows of these files, as they are now."""
    return [
        part
        for part in plan.parts
        if any(each.file.uri in files and not plan.is_superseded(each.file) for each in part.ranges)
    ]


def _changes(stored: Plan, plan: Plan, storage: Storage) -> InputChanges:
    planned, now = ([each.file for each in files] for files in (stored.current_files.values(), plan.files))
    if stored.identity["limit"] is not None:
        # A file that was added may take the place of others within --limit; those are still there.
        names = {file.uri for file in now}
        now += [found for file in planned if file.uri not in names and (found := _find(storage, file)) is not None]
    return compare_inputs(planned, now)


def _find(storage: Storage, file: StoredFile) -> StoredFile | None:
    try:
        return next((found for found in storage.walk(file.uri) if found.uri == file.uri), None)
    except InputError:
        return None


def _at_current_versions(stored: Plan, current: Mapping[str, StoredFile]) -> Plan:
    """The stored plan, which keeps its id, with other sizes and versions of its files; the keys stay."""
    files = []
    for planned in stored.files:
        is_superseded = stored.is_superseded(planned.file)
        found = planned.file if is_superseded else current.get(planned.file.uri, planned.file)
        files.append(replace(planned, file=replace(planned.file, size=found.size, version=found.version)))
    return replace(stored, files=tuple(files), stored_id=stored.id)


def _parts_by_file(plan: Plan) -> dict[str, list[Part]]:
    by_file: dict[str, list[Part]] = {uri: [] for uri in plan.current_files}
    for part in plan.parts:
        for uri in dict.fromkeys(each.file.uri for each in part.ranges):
            by_file[uri].append(part)
    return by_file


def _refuse_added(changes: InputChanges, output: OutputFiles) -> str | None:
    if not changes.added or not keep_trying(output.is_complete):
        return None
    return (
        f"{show_uri(output.directory)} is complete, and {_named(changes.added)} {_were(changes.added)} added to the "
        "input since; nothing was changed, and the new rows are not in it: give --append to add them (or "
        "--overwrite to replace this output, once a new one of all files is complete, or another --output)"
    )


def _refuse_removed(
    changes: InputChanges, parts: Mapping[str, Sequence[Part]], existing: Mapping[str, int]
) -> str | None:
    for file in changes.removed:
        missing = [part for part in parts[file.uri] if part.name not in existing]
        if missing:
            return (
                f"the input file {show_uri(file.uri)} has been removed since the job started, and {len(missing)} of "
                f"its {len(parts[file.uri])} parts are not finished; put the file back, or give another --output (or "
                "--overwrite to make the output again from the files that are left)"
            )
    return None


def _refuse_schema(changes: InputChanges, stored: Plan, plan: Plan, storage: Storage) -> str | None:
    """Files that were added may have other columns: they have no part in this output. Others may not."""
    if stored.schema.equals(plan.schema):
        return None
    for footer in read_footers(storage, changes.rewritten, text_columns=()):
        difference = difference_from(footer, stored.schema)
        if difference is not None:
            return (
                f"the columns of the input file {show_uri(footer.file.uri)} have changed since the job started: "
                f"{difference}; {_OR_OVERWRITE}"
            )
    if stored.overrides != plan.overrides:
        return f"the columns that set sampling parameters have changed since the job started; {_OR_OVERWRITE}"
    return None


def _refuse_rewritten(changes: InputChanges, stored: Plan, plan: Plan) -> str | None:
    before = {uri: each.cuts[-1] for uri, each in stored.current_files.items()}
    now = {each.file.uri: each.cuts[-1] for each in plan.files}
    for file in changes.rewritten:
        rows = now.get(file.uri)
        if rows is not None and rows != before[file.uri]:
            each = stored.parts[0].rows_per_file_row
            return (
                f"the input file {show_uri(file.uri)} has changed since the job started: it has {rows // each:,} rows "
                f"instead of {before[file.uri] // each:,}; {_OR_OVERWRITE}"
            )
    return None


_OR_OVERWRITE = (
    "give another --output, or --overwrite to make the output again and replace this one once the new one is complete"
)


def _refuse_rows(parts: Sequence[Part], plan: Plan, output: OutputFiles, existing: Mapping[str, int]) -> str | None:
    """Compare the finished ones of `parts`, which are at the current versions, with the rows of their files."""

    def compare(part: Part) -> str | None:
        return compare_part(part, plan, output.storage, keep_trying(lambda: output.storage.read(uri(part))))

    def uri(part: Part) -> str:
        return output.part(part.name)

    finished = [part for part in parts if part.name in existing]
    with ThreadPoolExecutor(_THREADS) as threads:
        for part, difference in zip(finished, threads.map(compare, finished), strict=True):
            if difference is not None:
                return (
                    f"the input file {show_uri(part.file.uri)} has changed since {part.name} was made from it: "
                    f"{difference}; {_OR_OVERWRITE}"
                )
    return None


def compare_part(part: Part, plan: Plan, storage: Storage, data: bytes) -> str | None:
    """Compare the rows that a part file has kept with the current rows of its input file.

    `data` are the bytes of the part file. Returns a clause that says what differs, or None. A damaged part
    is not compared: it will be made again.
    """
    columns = plan.schema
    try:
        finished = read_source_rows(data, columns.names, plan.rows_per_input_row, plan.identity.get("prefix", ""))
    except pa.ArrowInvalid:
        return None
    except ValueError as error:
        return f"its part is not whole ({error})"
    except (pa.ArrowException, OSError, KeyError):
        return None
    return keep_trying(lambda: find_difference(part, columns, storage, finished))


def _lines(changes: InputChanges, *, is_told_of_added: bool) -> Iterable[str]:
    if changes.rewritten:
        yield (
            f"{_named(changes.rewritten)} {_were(changes.rewritten)} written again since the job started; the rows of "
            "the finished parts are the same"
        )
    if changes.removed:
        yield (
            f"{_named(changes.removed)} {_were(changes.removed)} removed since the job started, after all parts were "
            "finished; the rows stay in this output"
        )
    if changes.added and is_told_of_added:
        yield (
            f"{_named(changes.added)} {_were(changes.added)} added since the job started and {_are(changes.added)} not "
            "in this output; once it is complete, --append adds them"
        )


def _named(files: Sequence[StoredFile]) -> str:
    shown = ", ".join(show_uri(file.uri) for file in files[:_SHOWN])
    more = f" and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    return f"the input file {shown}" if len(files) == 1 else f"the input files {shown}{more}"


def _were(files: Sequence[StoredFile]) -> str:
    return "was" if len(files) == 1 else "were"


def _are(files: Sequence[StoredFile]) -> str:
    return "is" if len(files) == 1 else "are"
