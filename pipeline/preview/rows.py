"""Makes chosen rows of a job in this process, by the steps of the job itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.actors.local_replica import LocalReplica
from tirazh.model.requests import Request
from tirazh.pipeline import schema
from tirazh.pipeline.classification.scores import NO_CORRECTIONS, Corrections
from tirazh.pipeline.execution.infer import InferConfig, append_results, make_requests
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.input.spread import row_numbers, spread_cells, spread_rows
from tirazh.pipeline.output.assemble import OutputLayout, assemble_rows
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.choose_step import choose_prompt_step
from tirazh.pipeline.prompts.encode import PromptConfig, cached_tokenizer
from tirazh.pipeline.repeated_rows import draws, repetitions_of
from tirazh.pipeline.storage.errors import show_uri

# The prompts of a larger input are not read to number those that repeat: it would take minutes.
MAX_COUNTED_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Rows of a job that are to be made.

    `table` has their prompts (`PromptStep`); `numbers` are their places in the input, from 0, and `parts` the same as
    parts of one row. `is_counted` is false where the repetitions of equal prompts are not those of the job.
    """

    table: pa.Table
    numbers: list[int]
    parts: list[Part]
    is_counted: bool

    @property
    def good(self) -> list[int]:
        """The rows that have a prompt."""
        return [row for row, error in enumerate(self.table.column(schema.ROW_ERROR).to_pylist()) if error is None]


def choose_rows(plan: Plan, config: PromptConfig, output: OutputFiles, count: int) -> ChosenRows:
    """Choose `count` rows spread over the whole input, read them and make their prompts.

    Raises InputError for an input that cannot be read.
    """
    if plan.crossing is not None:
        rows = spread_cells(plan.parts, plan.crossing, count)
    else:
        rows = spread_rows(plan.parts, count)
    is_counted = not draws(config) or not plan.has_files or plan.rows <= MAX_COUNTED_ROWS
    repetitions = _repetitions(plan, rows, config, output) if is_counted else {}
    tables = [read_part(row, output.storage, plan.schema, repetitions.get(row)) for row in rows]
    table = choose_prompt_step(config)(pa.concat_tables(tables))
    return ChosenRows(table, row_numbers(plan.parts, rows), rows, is_counted)


def _repetitions(
    plan: Plan, rows: Sequence[Part], config: PromptConfig, output: OutputFiles
) -> dict[Part, NDArray[np.int32]]:
    """The repetition of each row in the whole input, where it is not 0 or known without counting (`repetitions_of`)."""
    by_index = {part.index: part for part in plan.parts}
    counted = repetitions_of(plan, [by_index[row.index] for row in rows], config, output)
    first = {row: row.of_file.start - by_index[row.index].of_file.start for row in rows if row.index in counted}
    return {row: counted[row.index][start : start + 1] for row, start in first.items()}


def requests_of(chosen: ChosenRows, config: InferConfig) -> list[Request]:
    """The requests of the rows that have a prompt, as the inference step makes them."""
    return make_requests(chosen.table.take(chosen.good), config) if chosen.good else []


def make_rows(
    plan: Plan,
    chosen: ChosenRows,
    requests: Sequence[Request],
    replica: LocalReplica,
    config: InferConfig,
    layout: OutputLayout,
    tokenizer_dir: str,
) -> list[dict[str, Any]]:
    """Make the rows; return for each its place, its prompt, and the output rows that it becomes.

    Raises RequestError for labels that cannot be calibrated.
    """
    results = replica.run(requests) if requests else []
    table = append_results(chosen.table, chosen.good, results, config, _corrections(replica, config))
    tokenizer = cached_tokenizer(tokenizer_dir)
    prompts = chosen.table.column(schema.PROMPT_IDS).to_pylist()
    made = []
    for index, (number, part, ids) in enumerate(zip(chosen.numbers, chosen.parts, prompts, strict=True)):
        done = pa.concat_tables(assemble_rows(table.slice(index, 1).combine_chunks(), layout, tokenizer))
        made.append(
            {
                "row": number,
                "input": show_uri(part.file.uri) if part.has_file else None,
                "cell": None
                if plan.crossing is None
                else table.slice(index, 1).select(plan.crossing.names).to_pylist()[0],
                schema.PROMPT: None if ids is None else tokenizer.decode(ids),
                "output": done.to_pylist(),
            }
        )
    return made


def _corrections(replica: LocalReplica, config: InferConfig) -> Corrections:
    requests = config.labels.at_start() if config.labels is not None else []
    return config.labels.corrections(replica.run(requests)) if config.labels and requests else NO_CORRECTIONS
