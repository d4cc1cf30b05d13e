"""Numbers the rows of equal content before a job makes rows that draw random numbers.

It reads the prompt columns of the whole input once, up to the last part that is to be made. A resume does it again,
and takes the rows of a finished part from its file if the input file has been archived since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.errors import InputError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows, repetitions_in
from tirazh.pipeline.input.repetitions import count_repetitions
from tirazh.pipeline.input.schemas.arrow_types import without_columns
from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.rows.source_rows import read_source_rows
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.encode import PromptConfig
from tirazh.pipeline.storage.filesystem import keep_trying

_MANY_ROWS = 1_000_000


def repetitions_of(
    plan: Plan, remaining: Sequence[Part], config: PromptConfig, output: OutputFiles, tell: Tell | None = None
) -> dict[int, NDArray[np.int32]]:
    """The repetitions of the rows of the input by the index of their part (`count_repetitions`).

    Empty for a job that draws no random numbers, and for a crossing, which knows them. `remaining` are the parts that
    are to be made. Raises InputError for a damaged input.
    """
    if not draws(config) or not remaining:
        return {}
    if not plan.has_files:
        return _of_failed_rows(remaining, plan, {})
    last = max(part.index for part in remaining)
    parts = [part for part in plan.parts if part.index <= last]
    if plan.crossing is not None:
        return _of_failed_rows(remaining, plan, _of_crossed(parts, plan, config, output))
    if tell is not None and last and (rows := sum(part.rows for part in parts)) >= _MANY_ROWS:
        tell(f"reading the prompts of {rows:,} rows once, to number those that repeat")
    made_from = {part.index: part.file.uri if part.failed_rows is not None else None for part in remaining}
    columns = list(dict.fromkeys(config.columns.values()))
    read = partial(_read, plan=plan, columns=columns, made_from=made_from, output=output)
    return _of_failed_rows(remaining, plan, count_repetitions(parts, columns, read))


def _of_failed_rows(
    remaining: Sequence[Part], plan: Plan, found: dict[int, NDArray[np.int32]]
) -> dict[int, NDArray[np.int32]]:
    """Of a part of which only failed rows are made, the repetitions of those."""
    for part in remaining:
        if part.failed_rows is not None:
            whole = repetitions_in(plan.part_of_index[part.index], found.get(part.index))
            found[part.index] = whole[part.failed_rows.array()]
    return found


def _of_crossed(
    parts: Sequence[Part], plan: Plan, config: PromptConfig, output: OutputFiles
) -> dict[int, NDArray[np.int32]]:
    """The repetitions of the file rows of every part, where each of them is crossed with other values."""
    assert plan.crossing is not None
    names = [name for name in dict.fromkeys(config.columns.values()) if name not in plan.crossing.names]
    columns = without_columns(plan.schema, plan.crossing.names)
    whole = [part for part in _file_parts(parts) if part.rows]
    counted = count_repetitions(
        whole, names, lambda part: keep_trying(lambda: read_rows(part, output.storage, columns, only=names))
    )
    if not counted:
        return {}
    numbers: dict[str, list[NDArray[np.int32]]] = {}
    for part in whole:
        numbers.setdefault(part.file.uri, []).append(counted.get(part.index, np.zeros(part.rows, np.int32)))
    by_file = {uri: np.concatenate(arrays) for uri, arrays in numbers.items()}
    rows = {part.index: part.of_file for part in parts}
    return {index: by_file[of.file.uri][of.start : of.stop].copy() for index, of in rows.items()}


def _file_parts(parts: Sequence[Part]) -> Iterator[Part]:
    """Parts without a crossing that have every file row of `parts` once; each begins where the one before ends."""
    ends: dict[str, int] = {}
    for part in parts:
        own = part.of_file
        start = ends.get(own.file.uri, 0)
        ends[own.file.uri] = max(start, own.stop)
        yield replace(own, start=start, stop=max(start, own.stop))


def draws(config: PromptConfig) -> bool:
    """Whether a row may draw random numbers: classification never does, nor greedy decoding without --shots."""
    if config.sampling is None:
        return False
    return config.shots is not None or config.sampling.temperature > 0 or "temperature" in config.overrides


def _read(
    part: Part, *, plan: Plan, columns: Sequence[str], made_from: Mapping[int, str | None], output: OutputFiles
) -> pa.Table:
    """The columns of a part, from its part file if the input file was archived or replaced since.

    `made_from` has the parts that are to be made, with the part file that a part is made from, if it is one.
    """
    if not any(plan.is_superseded(each.file) for each in part.ranges):
        try:
            return keep_trying(lambda: read_rows(part, output.storage, plan.schema, only=columns))
        except InputError:
            if part.index in made_from and made_from[part.index] is None:
                raise
    uri = made_from.get(part.index) or output.part(part.name)
    data = keep_trying(lambda: output.storage.read(uri))
    return read_source_rows(data, columns, plan.rows_per_input_row, plan.identity.get("prefix", ""))
