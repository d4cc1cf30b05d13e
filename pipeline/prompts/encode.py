"""Rows into prompt tokens: fills in the template, tokenises, cuts what is too long. Runs as a CPU task of Ray Data.

A row that cannot be made into a prompt gets the reason in its error column and goes on without tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tirazh.actors.garbage import collect_rarely
from tirazh.errors import RowError
from tirazh.model.requests import SamplingParams
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.input.overrides import check_override, override_rows, row_sampling, row_seed
from tirazh.pipeline.input.texts import BrokenText, values_of
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import Truncate

# Text of more characters than this a token cannot fit, and is cut or refused before it is encoded.
MAX_TOKEN_CHARACTERS = 128
_CUT_ATTEMPTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """`columns` maps the template's variables to input columns; `text_variable` is the one that truncation may cut,
    and `needs_text` says that a row without it is an error whatever the template makes of that.

    A prompt is `head_ids`, then the tokens of `head_text` + the filled-in template. `room` is how many tokens stay
    free behind a prompt that is cut; `sampling` is None for classify.
    """

    tokenizer_dir: str
    template: str
    columns: Mapping[str, str]
    text_variable: str
    needs_text: bool
    head_ids: tuple[int, ...]
    head_text: str
    truncate: Truncate
    seq_length: int
    room: int
    sampling: SamplingParams | None
    seed: int
    overrides: tuple[str, ...]


class PromptWriter:
    """Follows a `PromptConfig` for rows given as mappings of the template's variables to values."""

    def __init__(self, plan: PromptConfig, tokenizer: Tokenizer) -> None:
        self.plan = plan
        self._tokenizer = tokenizer
        self._template = PromptTemplate(plan.template)

    def render(self, row: Mapping[str, Any]) -> str:
        """The prompt's text behind its head. Raises RowError."""
        text = self._template.render(row)
        # Labels follow after one space, so the prompt must not end in white space of its own (YAML texts do).
        return text.rstrip() if self.plan.sampling is None else text

    def encode(self, rendered: Sequence[str]) -> list[list[int]]:
        """Tokens of whole prompts, head and all, of any length."""
        ids = self._tokenizer.encode_many([self.plan.head_text + text for text in rendered])
        return [[*self.plan.head_ids, *rest] for rest in ids]

    def prepare(self, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """The row with a text of a sane length, and its prompt's text. Raises RowError."""
        for variable, value in row.items():
            if isinstance(value, BrokenText):
                raise RowError(f"column {self.plan.columns[variable]!r} {value.reason}")
        row = self._check_text(row)
        rendered = self.render(row)
        if not rendered.strip():
            raise RowError("the prompt is empty")
        return row, rendered

    def fit(self, row: Mapping[str, Any], ids: list[int], room: int) -> list[int]:
        """`ids`, the row's prompt, or those of the prompt with its text cut so that `room` tokens stay free behind it.
        Raises RowError."""
        is_strict = self.plan.truncate == "error"
        # Where nothing is cut, a prompt may use up the room of its completion, all but one token.
        most = self.plan.seq_length - (1 if is_strict and self.plan.sampling is not None else room)
        if len(ids) <= most:
            return ids
        if is_strict:
            raise RowError(f"the prompt has {len(ids)} tokens, and {most} fit")
        return self._cut(row, ids, most)

    def _cut(self, row: Mapping[str, Any], ids: list[int], most: int) -> list[int]:
        text = str(row[self.plan.text_variable])
        text_ids = self._tokenizer.encode(text)
        keep = len(text_ids) - (len(ids) - most)
        for _ in range(_CUT_ATTEMPTS):
            if keep <= 0:
                break
            piece = self._piece(text, text_ids, keep)
            (ids,) = self.encode([self.render({**row, self.plan.text_variable: piece})])
            if len(ids) <= most:
                return ids
            keep -= len(ids) - most
        raise RowError(f"the prompt has {len(ids)} tokens with hardly any text in it, and {most} fit")

    def _piece(self, text: str, text_ids: Sequence[int], keep: int) -> str:
        """The part of `text` that is `keep` tokens: cut between characters, so a broken last one is left out."""
        is_left = self.plan.truncate == "left"
        piece = self._tokenizer.decode(text_ids[-keep:] if is_left else text_ids[:keep])
        piece = piece.lstrip("\ufffd") if is_left else piece.rstrip("\ufffd")
        if text.endswith(piece) if is_left else text.startswith(piece):
            return piece
        length = len(text) * keep // len(text_ids)
        return text[len(text) - length :] if is_left else text[:length]

    def _check_text(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        column, value = self.plan.columns[self.plan.text_variable], row[self.plan.text_variable]
        if self.plan.needs_text and value is None:
            raise RowError(f"column {column!r} is null")
        if self.plan.needs_text and not str(value).strip():
            raise RowError(f"column {column!r} is empty")
        most = self.plan.seq_length * MAX_TOKEN_CHARACTERS
        if not isinstance(value, str) or len(value) <= most:
            return row
        if self.plan.truncate == "error":
            raise RowError(
                f"column {column!r} has {len(value)} characters, far more than {self.plan.seq_length} tokens"
            )
        return {**row, self.plan.text_variable: value[-most:] if self.plan.truncate == "left" else value[:most]}


class PromptStep:
    """The step of the Ray Data graph: one part's table in, the same with tokens, seeds and errors beside it out."""

    def __init__(self, plan: PromptConfig) -> None:
        self.plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        collect_rarely()
        writer = PromptWriter(self.plan, cached_tokenizer(self.plan.tokenizer_dir))
        columns = [values_of(table.column(name)) for name in self.plan.columns.values()]
        rows = [dict(zip(self.plan.columns, values, strict=True)) for values in zip(*columns, strict=True)]
        own = override_rows(table, self.plan.overrides)
        ids, errors = _write_prompts(writer, rows, own)
        keys: list[Any] = table.column(schema.ROW_KEY).to_pylist()
        seeds = [
            row_seed(values, job_seed=self.plan.seed, row_key=key) if error is None and self.plan.sampling else 0
            for values, key, error in zip(own, keys, errors, strict=True)
        ]
        table = table.append_column(schema.PROMPT_IDS, pa.array(ids, pa.list_(pa.int32())))
        table = table.append_column(schema.ROW_SEED, pa.array(seeds, pa.int64()))
        return table.append_column(schema.ROW_ERROR, pa.array(errors, pa.string()))


def _write_prompts(
    writer: PromptWriter, rows: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]
) -> tuple[list[list[int] | None], list[str | None]]:
    """Tokens and errors of all rows; each row has one of the two. All rows are encoded in one call."""
    plan = writer.plan
    ready: dict[int, tuple[Mapping[str, Any], str, int]] = {}
    ids: list[list[int] | None] = [None] * len(rows)
    errors: list[str | None] = [None] * len(rows)
    for index, (row, values) in enumerate(zip(rows, own, strict=True)):
        try:
            room = plan.room
            if plan.sampling is not None and values:
                check_override(values, plan.sampling, seq_length=plan.seq_length)
                room = row_sampling(values, plan.sampling).max_new_tokens
            ready[index] = (*writer.prepare(row), room)
        except RowError as error:
            errors[index] = str(error)
    encoded = writer.encode([rendered for _, rendered, _ in ready.values()])
    for (index, (row, _, room)), prompt in zip(ready.items(), encoded, strict=True):
        try:
            ids[index] = writer.fit(row, prompt, room)
        except RowError as error:
            errors[index] = str(error)
    return ids, errors


@lru_cache(maxsize=2)
def cached_tokenizer(directory: str) -> Tokenizer:
    """Loaded once a worker process."""
    return load_tokenizer(directory)
