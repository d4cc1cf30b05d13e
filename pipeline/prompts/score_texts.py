"""Turns rows into the texts that `score` reads: the tokens of a context, and those of the text behind it.

The model needs a token before the first one that it predicts. Without a context this is what the
tokenizer puts before every text, or else its end-of-text token, which stood between the texts of the
training data. lm-evaluation-harness does the same (`loglikelihood_rolling`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tirazh.actors.garbage import collect_rarely
from tirazh.errors import RowError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.prompts.encode import MAX_TOKEN_CHARACTERS, PromptConfig, PromptWriter, cached_tokenizer

_TRUNCATION_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class ScoredText:
    """`token_ids`: context and text; the first `num_context` belong to the context. `num_characters`: those
    of the text, after truncation."""

    token_ids: Sequence[int]
    num_context: int
    num_characters: int


class TextWriter:
    """Makes the texts of rows, each a mapping of input columns to values."""

    def __init__(self, config: PromptConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._writer = PromptWriter(config, tokenizer)
        self._start = tokenizer.prefix_token_ids or (tokenizer.end_token_id,)

    def write(self, row: Mapping[str, Any]) -> ScoredText:
        """Return the row's text behind its context, truncated to the sequence length. Raises RowError."""
        for variable, value in row.items():
            if isinstance(value, BrokenText):
                raise RowError(f"column {self._config.columns[variable]!r} {value.reason}")
        column, text = self._config.text_variable, row[self._config.text_variable]
        if text is None:
            raise RowError(f"column {column!r} is null")
        writer, text = self._writer.for_row(row), str(text)
        text = self._bound(text)
        context = writer.config.template.render(row)
        context_ids, text_ids = self._encode(writer, context, text)
        # Behind the last token nothing is predicted, so that it takes no position.
        most = self._config.seq_length + 1 - len(context_ids)
        if most < 1:
            raise RowError(f"the context has {len(context_ids)} tokens; at most {self._config.seq_length} fit")
        if len(text_ids) > most:
            context_ids, text_ids, text = self._truncate(writer, context, text, len(text_ids), most)
        return ScoredText([*context_ids, *text_ids], len(context_ids), len(text))

    def _encode(self, writer: PromptWriter, context: str, text: str) -> tuple[Sequence[int], list[int]]:
        """Return the tokens of both. White space at the end of a context belongs to the text where it is one
        token with the text's beginning."""
        cut = context.rstrip()
        ids = writer.tokens_behind(context, text)
        if ids is None and cut != context and (moved := writer.tokens_behind(cut, context[len(cut) :] + text)):
            context, ids = cut, moved
        if ids is None:
            ids = self._tokenizer.encode(text)
        (context_ids,) = writer.encode([context])
        return context_ids or self._start, ids

    def _truncate(
        self, writer: PromptWriter, context: str, text: str, length: int, most: int
    ) -> tuple[Sequence[int], list[int], str]:
        if self._config.truncate == "error":
            raise RowError(f"the text has {length} tokens; at most {most} fit behind its context; set --truncate")
        ids = self._tokenizer.encode(text)
        keep = min(most, len(ids))
        for _ in range(_TRUNCATION_ATTEMPTS):
            part = writer.take_tokens(text, ids, keep)
            context_ids, text_ids = self._encode(writer, context, part)
            excess = len(context_ids) + len(text_ids) - self._config.seq_length - 1
            if excess <= 0:
                return context_ids, text_ids, part
            keep -= excess
            if keep < 1:
                break
        raise RowError(f"the text has {length} tokens and cannot be truncated to {most}")

    def _bound(self, text: str) -> str:
        """Cut a text that is too long even if each token has the most characters, before it is tokenised."""
        most = (self._config.seq_length + 1) * MAX_TOKEN_CHARACTERS
        if len(text) <= most:
            return text
        if self._config.truncate == "error":
            raise RowError(
                f"column {self._config.text_variable!r} has {len(text)} characters, too many for "
                f"{self._config.seq_length} tokens"
            )
        return text[-most:] if self._config.truncate == "left" else text[:most]


class ScoreTextStep:
    """The step of the graph that makes the texts of one part: adds tokens, lengths and errors to its table."""

    def __init__(self, config: PromptConfig) -> None:
        self.config = config

    def __call__(self, table: pa.Table) -> pa.Table:
        collect_rarely()
        writer = TextWriter(self.config, cached_tokenizer(self.config.tokenizer_dir))
        columns = [values_of(table.column(name)) for name in self.config.columns.values()]
        texts: list[ScoredText | None] = []
        errors: list[str | None] = []
        for values in zip(*columns, strict=True):
            try:
                texts.append(writer.write(dict(zip(self.config.columns, values, strict=True))))
                errors.append(None)
            except RowError as error:
                texts.append(None)
                errors.append(str(error))
        added: dict[str, pa.Array[Any]] = {
            schema.PROMPT_IDS: pa.array([text and text.token_ids for text in texts], pa.list_(pa.int32())),
            schema.NUM_CONTEXT_IDS: pa.array([text and text.num_context for text in texts], pa.int32()),
            schema.NUM_CHARACTERS: pa.array([text and text.num_characters for text in texts], pa.int32()),
            schema.ROW_SEED: pa.array([0] * len(texts), pa.int64()),
            schema.ROW_ERROR: pa.array(errors, pa.string()),
        }
        for name, column in added.items():
            table = table.append_column(name, column)
        return table


def shared_context(config: PromptConfig, tokenizer: Tokenizer, probes: Sequence[str]) -> tuple[int, ...]:
    """Return the tokens with which all contexts begin, less the last one, whose logits each row reads.

    `probes` are values whose first characters are of every kind that a tokenizer treats differently.
    """
    writer = TextWriter(replace(config, truncate="right"), tokenizer)
    texts = [writer.write(dict.fromkeys(config.columns, probe)) for probe in probes]
    first = texts[0]
    shared = 0
    while shared < min(text.num_context for text in texts) - 1 and all(
        text.token_ids[shared] == first.token_ids[shared] for text in texts
    ):
        shared += 1
    return tuple(first.token_ids[:shared])
