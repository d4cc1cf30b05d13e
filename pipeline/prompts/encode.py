"""Turns rows into prompt tokens: renders the template, tokenises, truncates long texts.

It runs as a CPU task of Ray Data. A row that cannot become a prompt gets the reason in its error
column and continues without tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tirazh.actors.garbage import collect_rarely
from tirazh.errors import RowError
from tirazh.model.requests import SamplingParams
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.input.overrides import check_override, override_rows, row_sampling, row_seed
from tirazh.pipeline.input.repetitions import content_of
from tirazh.pipeline.model_cache.remote_model import local_tokenizer_dir
from tirazh.pipeline.prompts.control_marks import choose_marks, holds_any, texts_of
from tirazh.pipeline.prompts.label_tokens import LabelBoundary
from tirazh.pipeline.prompts.nearest_shots import NearestShots
from tirazh.pipeline.prompts.row_shots import with_shots
from tirazh.pipeline.prompts.shots import EXAMPLES, Shots
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import Truncate

# No token has more characters. A text that is too long even so is cut or refused before it is
# tokenised.
MAX_TOKEN_CHARACTERS = 128
# The end of a prompt on which the tokens of its completion may depend.
_CONTEXT_CHARACTERS = 256
# Cutting a text can change the tokens around the cut, so the result may still be too long.
_TRUNCATION_ATTEMPTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """How prompts are made.

    A prompt is `head_ids`, followed by the tokens of `head_text` + the rendered template. `columns`
    maps the template's variables to input columns, `text_variable` is the one that may be
    truncated, `content_columns` are columns outside of the prompt on which a row's random numbers depend too, and
    `needs_text` makes a row without that text an error, whatever the template renders. `reserved_tokens` stay free
    behind a truncated prompt. `sampling` is None except for generate. `boundary` checks the end of prompts where
    the labels' tokens may depend on it. `keeps_text` adds the text of every prompt behind its head. `shots` are the
    examples from which every row draws its own, `nearest` those of which it takes the nearest. `scores_text` marks the
    configuration of score (`score_texts.py`). `constants` are variables of the template that are the same in all rows.
    `prompt_end` is white space at the end of every prompt of classify: the beginning of what follows it in several
    questions.
    """

    tokenizer_dir: str
    template: PromptTemplate
    columns: Mapping[str, str]
    text_variable: str
    needs_text: bool
    head_ids: tuple[int, ...]
    head_text: str
    truncate: Truncate
    seq_length: int
    reserved_tokens: int
    sampling: SamplingParams | None
    seed: int
    overrides: tuple[str, ...]
    boundary: LabelBoundary | None = None
    content_columns: tuple[str, ...] = ()
    keeps_text: bool = False
    shots: Shots | None = None
    scores_text: bool = False
    constants: Mapping[str, Any] = field(default_factory=dict)
    prompt_end: str = ""
    nearest: NearestShots | None = None


class PromptWriter:
    """Makes prompts of rows, each a mapping of the template's variables to values."""

    def __init__(self, config: PromptConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self._tokenizer = tokenizer
        marks = {mark: name for name, mark in config.template.marks.items()}
        self._marked_tokenizer = tokenizer.marked(marks)

    def for_row(self, row: Mapping[str, Any]) -> PromptWriter:
        """The writer for a row: this one, unless the row contains a mark that stands for a control token of
        the template. Raises RowError."""
        template = self.config.template
        if not template.marks or not holds_any(row, template.marks):
            return self
        taken = self.config.head_text + "".join(texts_of([*row.values()]))
        marks = choose_marks(template.source, tuple(template.marks), taken)
        if marks is None:
            raise RowError("the row contains all private-use characters that may stand for control tokens")
        head = self.config.head_text.translate({ord(template.marks[name]): mark for name, mark in marks.items()})
        config = replace(self.config, template=PromptTemplate(template.source, marks), head_text=head)
        return PromptWriter(config, self._tokenizer)

    def with_head(self, text: str) -> PromptWriter:
        """The writer of prompts that begin with `text`."""
        return PromptWriter(replace(self.config, head_text=text), self._tokenizer)

    def render(self, row: Mapping[str, Any]) -> str:
        """Render the prompt's text after its head. Raises RowError."""
        text = self.config.template.render({**row, **self.config.constants})
        if self.config.sampling is not None:
            return text
        # A label follows after one space, so a classify prompt must not end in white space (YAML
        # texts do).
        text = text.rstrip() + self.config.prompt_end
        if self.config.boundary is not None:
            self.config.boundary.check(text, self._marked_tokenizer)
        return text

    def encode(self, rendered: Sequence[str]) -> list[list[int]]:
        """Tokenise rendered texts, each with the prompt's head before it.

        Prompts may be of any length. The tokens that a model sees before every text are not doubled
        where the template itself begins with them.
        """
        ids = self._marked_tokenizer.encode_many([self.config.head_text + text for text in rendered])
        head, first = self.config.head_ids, self._tokenizer.prefix_token_ids
        return [rest if head and head == first == tuple(rest[: len(head)]) else [*head, *rest] for rest in ids]

    def encode_completion(self, rendered: str, completion: str) -> list[int]:
        """Return the tokens of a completion of a rendered prompt: those of the whole text less those of the
        prompt, or its own where the prompt's last tokens would be others in the whole text."""
        ids = self.tokens_behind(rendered, completion)
        return self._tokenizer.encode(completion) if ids is None else ids

    def tokens_behind(self, rendered: str, completion: str) -> list[int] | None:
        """Return the tokens of the whole text less those of the prompt; None where the prompt's last tokens
        would be others in the whole text."""
        end = rendered[-_CONTEXT_CHARACTERS:]
        head, whole = self._marked_tokenizer.encode_many([end, end + completion])
        return whole[len(head) :] if whole[: len(head)] == head else None

    def prepare(self, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Return the row with its text cut to a bounded number of characters, and its rendered prompt.

        Raises RowError.
        """
        for variable, value in row.items():
            if isinstance(value, BrokenText):
                raise RowError(f"column {self.config.columns[variable]!r} {value.reason}")
        row = self._bound_text(row)
        rendered = self.render(row)
        if not rendered.strip():
            raise RowError("the prompt is empty")
        return row, rendered

    def fit(self, row: Mapping[str, Any], ids: list[int], reserved_tokens: int) -> list[int]:
        """Return `ids`, the tokens of the row's prompt, truncated so that `reserved_tokens` stay
        free behind them.

        Only the row's text is truncated, never the rest of the template. Raises RowError.
        """
        return self.fit_text(row, "", ids, reserved_tokens)[1]

    def fit_text(
        self, row: Mapping[str, Any], rendered: str, ids: list[int], reserved_tokens: int
    ) -> tuple[str, list[int]]:
        """Return the rendered prompt and its tokens `ids`, truncated as `fit` does. Raises RowError."""
        is_strict = self.config.truncate == "error"
        # Without truncation a prompt may take the space of its completion, except for one token.
        free = 1 if is_strict and self.config.sampling is not None else reserved_tokens
        most = self.config.seq_length - free
        if len(ids) <= most:
            return rendered, ids
        if is_strict:
            raise RowError(f"the prompt has {len(ids)} tokens; at most {most} fit")
        return self._truncate(row, ids, most)

    def readable(self, rendered: str) -> str:
        """The rendered prompt with the names of control tokens instead of their marks."""
        return rendered.translate({ord(mark): name for name, mark in self.config.template.marks.items()})

    def _truncate(self, row: Mapping[str, Any], ids: list[int], most: int) -> tuple[str, list[int]]:
        text = str(row[self.config.text_variable])
        text_ids = self._tokenizer.encode(text)
        keep = len(text_ids) - (len(ids) - most)
        for _ in range(_TRUNCATION_ATTEMPTS):
            if keep <= 0:
                break
            part = self.take_tokens(text, text_ids, keep)
            rendered = self.render({**row, self.config.text_variable: part})
            (ids,) = self.encode([rendered])
            if len(ids) <= most:
                return rendered, ids
            keep -= len(ids) - most
        raise RowError(f"the prompt has {len(ids)} tokens even with its text truncated; at most {most} fit")

    def take_tokens(self, text: str, text_ids: Sequence[int], keep: int) -> str:
        """The first or last `keep` tokens of `text` as text, without a character that the cut would break."""
        is_left = self.config.truncate == "left"
        part = self._tokenizer.decode(text_ids[-keep:] if is_left else text_ids[:keep])
        part = part.lstrip("\ufffd") if is_left else part.rstrip("\ufffd")
        if text.endswith(part) if is_left else text.startswith(part):
            return part
        # The tokenizer does not reproduce this text exactly: cut the same share of its characters.
        length = len(text) * keep // len(text_ids)
        return text[len(text) - length :] if is_left else text[:length]

    def _bound_text(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.config.text_variable:  # the template has lists only
            return row
        column, value = self.config.columns[self.config.text_variable], row[self.config.text_variable]
        if self.config.needs_text and value is None:
            raise RowError(f"column {column!r} is null")
        if self.config.needs_text and not str(value).strip():
            raise RowError(f"column {column!r} is empty")
        most = self.config.seq_length * MAX_TOKEN_CHARACTERS
        if not isinstance(value, str) or len(value) <= most:
            return row
        if self.config.truncate == "error":
            raise RowError(
                f"column {column!r} has {len(value)} characters, too many for {self.config.seq_length} tokens"
            )
        return {**row, self.config.text_variable: value[-most:] if self.config.truncate == "left" else value[:most]}


class PromptStep:
    """The prompt step of the graph: adds tokens, seeds and errors to the table of one part."""

    def __init__(self, config: PromptConfig) -> None:
        self.config = config

    def __call__(self, table: pa.Table) -> pa.Table:
        collect_rarely()
        writer = PromptWriter(self.config, cached_tokenizer(self.config.tokenizer_dir))
        columns = [values_of(table.column(name)) for name in self.config.columns.values()]
        rows = [dict(zip(self.config.columns, values, strict=True)) for values in zip(*columns, strict=True)]
        overrides = override_rows(table, self.config.overrides)
        more = [values_of(table.column(name)) for name in self.config.content_columns]
        contents = [content_of([*row.values(), *rest]) for row, *rest in zip(rows, *more, strict=True)]
        repetitions: list[Any] = table.column(schema.REPETITION).to_pylist()
        keys = list(zip(contents, repetitions, strict=True))
        prompts = _write_prompts(writer, rows, overrides, keys)
        table = table.append_column(schema.PROMPT_IDS, pa.array([each.ids for each in prompts], pa.list_(pa.int32())))
        table = table.append_column(schema.ROW_SEED, pa.array([each.seed for each in prompts], pa.int64()))
        if self.config.nearest is not None:
            dropped = pa.array([each.dropped_shots for each in prompts], pa.int32())
            table = table.append_column(schema.DROPPED_SHOTS, dropped)
        if self.config.keeps_text:
            table = table.append_column(schema.PROMPT_TEXT, pa.array([each.text for each in prompts], pa.string()))
        return table.append_column(schema.ROW_ERROR, pa.array([each.error for each in prompts], pa.string()))


@dataclass(slots=True)
class _Prompt:
    """The prompt of a row: its seed, its tokens or its error, its text if that is kept, and the number of its own
    examples that did not fit."""

    seed: int | None = None
    ids: list[int] | None = None
    text: str | None = None
    error: str | None = None
    dropped_shots: int = 0


def _write_prompts(
    writer: PromptWriter,
    rows: Sequence[Mapping[str, Any]],
    overrides: Sequence[Mapping[str, Any]],
    keys: Sequence[tuple[str, int]],
) -> list[_Prompt]:
    """Return the prompts of all rows, whose content and repetition `keys` has. Tokenises all rows in one call."""
    config = writer.config
    ready: dict[int, tuple[PromptWriter, Mapping[str, Any], str, int]] = {}
    prompts = [_Prompt() for _ in rows]
    for index, (row, values, prompt) in enumerate(zip(rows, overrides, prompts, strict=True)):
        try:
            reserved = config.reserved_tokens
            if config.sampling is not None:
                if values:
                    check_override(values, config.sampling, seq_length=config.seq_length)
                    reserved = row_sampling(values, config.sampling).max_new_tokens
                content, repetition = keys[index]
                prompt.seed = row_seed(values, job_seed=config.seed, content=content, repetition=repetition)
                if config.shots is not None:
                    row = {**row, EXAMPLES: config.shots.draw([*row.values()], prompt.seed)}
            own = writer.for_row(row)
            ready[index] = (own, *own.prepare(row), reserved)
        except RowError as error:
            prompt.error = str(error)
    if config.nearest is not None:
        return _add_nearest(writer, config.nearest, ready, prompts)
    common = iter(writer.encode([rendered for own, _, rendered, _ in ready.values() if own is writer]))
    for index, (own, row, rendered, reserved) in ready.items():
        ids, prompt = next(common) if own is writer else own.encode([rendered])[0], prompts[index]
        try:
            rendered, prompt.ids = own.fit_text(row, rendered, ids, reserved)
        except RowError as error:
            prompt.error = str(error)
        else:
            prompt.text = own.readable(rendered) if config.keeps_text else None
    return prompts


def _add_nearest(
    writer: PromptWriter,
    shots: NearestShots,
    ready: Mapping[int, tuple[PromptWriter, Mapping[str, Any], str, int]],
    prompts: list[_Prompt],
) -> list[_Prompt]:
    """Complete the prompts of the rows `ready`, each behind the examples that are nearest to its text."""
    chosen = shots.choose([str(row[writer.config.text_variable]) for _, row, _, _ in ready.values()])
    for (index, (_, row, _, reserved)), own_shots in zip(ready.items(), chosen, strict=True):
        prompt = prompts[index]
        try:
            own, ids, prompt.dropped_shots = with_shots(writer, shots, own_shots, row, reserved)
            prompt.ids = own.fit(row, ids, reserved)
        except RowError as error:
            prompt.error = str(error)
    return prompts


@lru_cache(maxsize=2)
def cached_tokenizer(directory: str) -> Tokenizer:
    """Load a tokenizer once per worker process. `directory` is a path, or stands for a remote model."""
    return load_tokenizer(local_tokenizer_dir(directory))
