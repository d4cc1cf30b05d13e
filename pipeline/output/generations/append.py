"""`--append`: the plan that continues a complete output with the rows of more files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tirazh.errors import OutputError
from tirazh.pipeline.input.changes import list_remaining
from tirazh.pipeline.input.crossed import cross_footers
from tirazh.pipeline.input.decoded_size import with_decoded_sizes
from tirazh.pipeline.input.footers import Footer, read_footers
from tirazh.pipeline.input.parts import count_tokens, kept_groups
from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.input.unify import count_directory_text, difference_from
from tirazh.pipeline.output.generations.keys import known_rows
from tirazh.pipeline.output.generations.placed import placed_parts
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan, cut_files, row_cost
from tirazh.pipeline.planned_files import Continued, PlacedPart, PlannedFile
from tirazh.pipeline.settings import fingerprint_of
from tirazh.pipeline.spec import JobSpec
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri


def plan_append(base: Plan, plan: Plan, added: Sequence[StoredFile], spec: JobSpec, output: OutputFiles) -> Plan | None:
    """The plan that continues `base`, that of the complete `output`, with the rows of `added`; None without such rows.

    `plan` is what the settings alone give. Raises OutputError for a file whose columns do not go with those of the
    output, RequestError and InputError for keys that cannot be compared (`known_rows`).
    """
    footers = [footer for footer in read_footers(plan.job.storage, added, text_columns=_texts(plan)) if footer.rows]
    for footer in footers:
        _check_columns(footer, base, output)
    left_out = {}
    if spec.key is not None:
        parts = [output.part(part.name) for part in base.parts]
        left_out = known_rows(spec.key, base.schema, footers, parts, plan.job.storage)
    files, tokens = _cut(footers, base, plan, spec, left_out)
    placed = _place(files, placed_parts(base), first_file=len(base.files))
    if len(placed) == len(base.parts):
        return None
    identity = base.identity | {"input": _inputs(base, plan, added)}
    return replace(
        base,
        identity=identity,
        fingerprint=fingerprint_of(identity),
        files=(*base.files, *files),
        estimated_tokens=base.estimated_tokens + tokens,
        placed=placed,
        continued=Continued(base.id, "append"),
        stored_id=None,
        resolved=plan.resolved,
    )


def plan_first(plan: Plan, spec: JobSpec) -> Plan:
    """The plan of a new output with `--key`: without the rows whose keys earlier rows have. Raises as `plan_append`."""
    if spec.key is None or not spec.append:
        return plan
    files = [planned.file for planned in plan.files]
    footers = [footer for footer in read_footers(plan.job.storage, files, text_columns=_texts(plan)) if footer.rows]
    left_out = known_rows(spec.key, plan.schema, footers, (), plan.job.storage)
    if not left_out:
        return plan
    planned, tokens = _cut(footers, plan, plan, spec, left_out)
    placed = _place(planned, (), first_file=0)
    return replace(plan, files=tuple(planned), placed=placed, estimated_tokens=tokens)


def _texts(plan: Plan) -> tuple[str, ...]:
    """The columns in the prompt."""
    return tuple(plan.job.source.columns.values())


def _check_columns(footer: Footer, base: Plan, output: OutputFiles) -> None:
    of_files = [name for name in base.schema.names if base.crossing is None or name not in base.crossing.names]
    difference = difference_from(footer, base.schema)
    if difference is None:
        return
    raise OutputError(
        f"the new file {show_uri(footer.file.uri)} does not go with {show_uri(output.directory)}: {difference}; the "
        f"columns of the output stay as they are ({', '.join(of_files)}): write the file with these, or give another "
        "--output"
    )


def _cut(
    footers: Sequence[Footer], base: Plan, plan: Plan, spec: JobSpec, left_out: dict[str, RowMask]
) -> tuple[list[PlannedFile], int]:
    """The files, cut into parts, and the estimated tokens of the rows that are not left out."""
    texts, cost = _texts(plan), row_cost(spec)
    sized = with_decoded_sizes(plan.job.storage, footers, text_columns=texts)
    sized = count_directory_text(sized, base.schema, texts)
    if base.crossing is not None:
        sized = cross_footers(sized, base.crossing, text_columns=texts)
    files = cut_files(sized, spec, cost, left_out)
    masks = [planned.left_out for planned in files]
    kept = [
        footer if mask is None else replace(footer, row_groups=kept_groups(footer, mask))
        for footer, mask in zip(sized, masks, strict=True)
    ]
    return files, count_tokens(kept, cost)


def _place(files: Iterable[PlannedFile], before: Sequence[PlacedPart], *, first_file: int) -> tuple[PlacedPart, ...]:
    """The parts before, and those of `files`, whose numbers follow."""
    ranges = [
        (number, start, stop)
        for number, planned in enumerate(files, start=first_file)
        for start, stop in zip(planned.cuts, planned.cuts[1:], strict=False)
        if planned.left_out is None or (mask := planned.left_out.slice(start, stop)) is None or mask.count < mask.rows
    ]
    first = max((each.index for each in before), default=-1) + 1
    new = (PlacedPart(first + at, first + len(ranges), "", (each,)) for at, each in enumerate(ranges))
    return (*before, *new)


def _inputs(base: Plan, plan: Plan, added: Sequence[StoredFile]) -> list[str]:
    """What names all files: the input of the output, and that of this run if it names others."""
    known = {file.uri for file in list_remaining(plan.job.storage, base.identity["input"])}
    inputs = list(base.identity["input"])
    if all(file.uri in known for file in added):
        return inputs
    return list(dict.fromkeys([*inputs, *plan.identity["input"]]))
