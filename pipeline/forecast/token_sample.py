"""Measures the tokens of a job's prompts on a sample of its rows, before the job starts.

The rows are rendered with the job's template and tokenised with its tokenizer, as the job will do it. The cuts of the
parts do not depend on it: they follow from footers alone (`input/parts.py`), so that a plan stays the same when the
tokenizer's library changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.input.spread import read_sample, take_evenly
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.prompts.choose_step import choose_prompt_step
from tirazh.pipeline.prompts.encode import PromptConfig
from tirazh.pipeline.prompts.prepare import PreparedPrompts

# Of one place of the input at most so much text is tokenised (a million takes about a second), but always one row.
_CHARACTERS_OF_A_PLACE = 64_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSample:
    """What a sample of rows says about all of them.

    `rows` were measured. `prompt_tokens` is the mean length of a prompt in tokens over all rows; those without a
    prompt, because of an error, count as 0. `shared_tokens` of them, on average, are those of the job's shared prefix,
    which are computed once. `longest_own` is the largest number of other tokens. `cut` and `failed` are shares of
    the rows: prompts that lost a part of their text because they are too long, and rows that get an error; `too_long`
    is the share of the latter that are too long, `short_of_shots` that of rows for whose own examples the space is too
    small. `error` is the first error.
    """

    rows: int
    prompt_tokens: float
    shared_tokens: float
    longest_own: int
    cut: float
    failed: float
    too_long: float
    error: str | None
    short_of_shots: float = 0.0


def is_too_long(error: str) -> bool:
    """Whether a row's error says that its prompt is too long (`PromptWriter.fit` and `prepare`)."""
    return (" fit" in error and error.startswith("the prompt has ")) or "characters, too many for" in error


def measure_tokens(plan: Plan, prompts: PreparedPrompts) -> TokenSample:
    """Measure the prompts of some hundred rows spread over the input. `plan` is one that `plan_job` returned.

    Raises InputError for an input that cannot be read.
    """
    config = prompts.config
    columns = list(dict.fromkeys([*config.columns.values(), *config.overrides]))
    sample = read_sample(plan.parts, plan.job.storage, plan.schema, columns)
    tables = [_short(place.table, config) for place in sample]
    # A place stands for its share of the input, however many of its rows were taken.
    shares = zip(sample, tables, strict=True)
    weights = np.concatenate([np.full(table.num_rows, place.share / table.num_rows) for place, table in shares])
    rows = _encode(pa.concat_tables(tables), config)
    return _summed(rows, weights, prompts.engine_job.prefix_token_ids)


@dataclass(frozen=True, slots=True)
class _Row:
    """`ids` are the tokens of the prompt; None for a row with an error."""

    ids: Sequence[int] | None
    error: str | None
    is_cut: bool
    is_too_long: bool
    is_short_of_shots: bool


def _summed(rows: Sequence[_Row], weights_N: Any, prefix: tuple[int, ...]) -> TokenSample:
    lengths = [0 if row.ids is None else len(row.ids) for row in rows]
    shared = [
        len(prefix) if row.ids is not None and prefix and tuple(row.ids[: len(prefix)]) == prefix else 0 for row in rows
    ]
    return TokenSample(
        rows=len(rows),
        prompt_tokens=_mean(weights_N, lengths),
        shared_tokens=_mean(weights_N, shared),
        longest_own=max(length - common for length, common in zip(lengths, shared, strict=True)),
        cut=_mean(weights_N, [row.is_cut for row in rows]),
        failed=_mean(weights_N, [row.error is not None for row in rows]),
        too_long=_mean(weights_N, [row.is_too_long for row in rows]),
        short_of_shots=_mean(weights_N, [row.is_short_of_shots for row in rows]),
        error=next((row.error for row in rows if row.error is not None), None),
    )


def _mean(weights_N: Any, values: Sequence[float]) -> float:
    # Rounded, so that equal values have exactly that mean.
    return round(float(np.dot(weights_N, values)), 9)


def _encode(table: pa.Table, config: PromptConfig) -> list[_Row]:
    """Make the prompts of the sample as the job does, and find out which of them were cut."""
    table = table.append_column(schema.REPETITION, pa.array(np.zeros(table.num_rows, np.int32)))
    ids, errors, dropped = _prompts(table, config)
    most = config.seq_length - config.reserved_tokens
    # A prompt that was cut still takes nearly all the tokens that it may. Whether it was cut, the same
    # configuration says that refuses instead.
    long = [row for row, tokens in enumerate(ids) if tokens is not None and len(tokens) > most * 3 // 4]
    if config.truncate == "error":
        long = []
    room = 1 if config.sampling is not None else config.reserved_tokens
    strict = replace(config, truncate="error", seq_length=most + room)
    refused = _prompts(table.take(long), strict)[1] if long else []
    cut = {row for row, error in zip(long, refused, strict=True) if error is not None}
    return [
        _Row(tokens, error, row in cut, error is not None and is_too_long(error), more > 0)
        for row, (tokens, error, more) in enumerate(zip(ids, errors, dropped, strict=True))
    ]


def _prompts(table: pa.Table, config: PromptConfig) -> tuple[list[Any], list[Any], list[Any]]:
    """The tokens of the prompts, the errors, and the numbers of a row's own examples that did not fit."""
    done = choose_prompt_step(config)(table)
    dropped = [0] * table.num_rows if config.nearest is None else done.column(schema.DROPPED_SHOTS).to_pylist()
    return done.column(schema.PROMPT_IDS).to_pylist(), done.column(schema.ROW_ERROR).to_pylist(), dropped


def _short(table: pa.Table, config: PromptConfig) -> pa.Table:
    """Some rows of the table whose prompts have a bounded number of characters together; at least one."""
    sizes = np.full(table.num_rows, len(config.head_text) + len(config.template.source))
    for name in dict.fromkeys(config.columns.values()):
        sizes += [len(value) if isinstance(value, str | bytes) else 8 for value in table.column(name).to_pylist()]
    count = int(np.searchsorted(np.cumsum(sizes), _CHARACTERS_OF_A_PLACE, side="right"))
    return take_evenly(table, max(1, count))
