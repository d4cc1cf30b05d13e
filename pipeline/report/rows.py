"""The rows that a page shows: which columns it needs of them, and their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tirazh.errors import TirazhError
from tirazh.pipeline import schema
from tirazh.pipeline.classification.answer_counts import AnswerColumns, columns_of_answers
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.report.least_certain import Place
from tirazh.pipeline.report.words import clip, end_text

MOST_COLUMNS = 4
MOST_TEXTS = 20
EXAMPLES_PER_LABEL = 3
MOST_EXAMPLE_LABELS = 12
_MOST_CHARACTERS = 1_000
_RESULTS = (schema.COMPLETION, schema.COMPLETIONS, schema.FINISH_REASON, schema.FINISH_REASONS)
_NUMBERS = (schema.COMPLETION_TOKENS, schema.BITS_PER_CHARACTER, schema.NUM_TOKENS)
_MORE = (schema.ERROR, schema.KEPT, schema.DROP_REASONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """One row on the page.

    `columns` are (name, value) of the input and `text` is the result. `note` says how the row ended. `answer`,
    `runner_up` and `gold` are those of a question; `confidence` is a text with two digits. `place` names the part and
    the row in it.
    """

    columns: tuple[tuple[str, str], ...]
    text: str = ""
    note: str = ""
    answer: str = ""
    confidence: str = ""
    runner_up: str = ""
    gold: str = ""
    place: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowColumns:
    """The columns of an output that its page shows: of the input, with the prefix of the job, and of the answers."""

    inputs: tuple[str, ...]
    prefix: str
    answers: tuple[AnswerColumns, ...]

    @property
    def error(self) -> str:
        """The column of errors."""
        return self.prefix + schema.ERROR

    @property
    def sampled(self) -> list[str]:
        """What is read of the sample, columns that do not exist included."""
        return list(dict.fromkeys([*self.inputs, *self._added, *self._of_answers]))

    @property
    def detailed(self) -> list[str]:
        """What is read of a few rows: besides, the probabilities and the gold labels."""
        more = [name for each in self.answers for name in (each.probabilities, each.gold_column) if name is not None]
        return list(dict.fromkeys([*self.sampled, *more]))

    def is_input(self, name: str) -> bool:
        """Whether the column is one of the input."""
        return name in self.inputs

    @property
    def _added(self) -> list[str]:
        return [self.prefix + name for name in (*_RESULTS, *_NUMBERS, *_MORE, schema.PROMPT)]

    @property
    def _of_answers(self) -> list[str]:
        return [name for each in self.answers for name in (each.label, each.confidence)]


def row_columns(manifest: Mapping[str, Any]) -> RowColumns:
    """The columns that the page of this output shows."""
    spec = manifest["spec"]
    steps = [step for step in spec.get("steps") or [] if isinstance(step, Mapping)]
    inputs: list[str] = []
    for each in (spec, *steps):
        inputs += _input_columns(each)
    classify = [each for each in (spec, *steps) if each.get("labels") or each.get("questions")]
    prefix = spec.get("prefix") or next((step["prefix"] for step in steps if step.get("prefix")), "")
    return RowColumns(
        inputs=tuple(dict.fromkeys(inputs))[: 2 * MOST_COLUMNS],
        prefix=prefix,
        answers=columns_of_answers(classify[-1]) if classify else (),
    )


def _input_columns(spec: Mapping[str, Any]) -> Iterator[str]:
    template = spec.get("template")
    named = [spec.get("key"), spec.get("text_column"), spec.get("prompt_column"), *(spec.get("vary") or {})]
    for name in named:
        yield from [name] if isinstance(name, str) else name if isinstance(name, list | tuple) else []
    if isinstance(template, str):
        yield from _variables(template)


@lru_cache(maxsize=16)
def _variables(template: str) -> tuple[str, ...]:
    """The variables of a template; none if it is not one, as a page is written without them."""
    try:
        return tuple(PromptTemplate(template).variables)
    except (TirazhError, ValueError):
        return ()


def sampled_rows(sample: pa.Table, columns: RowColumns) -> list[dict[str, Any]]:
    """All rows of the sample as mappings of their columns."""
    values = {name: values_of(sample.column(name)) for name in sample.column_names}
    return [{name: column[row] for name, column in values.items()} for row in range(sample.num_rows)]


def evenly(rows: Sequence[dict[str, Any]], most: int = MOST_TEXTS) -> Sequence[dict[str, Any]]:
    """At most `most` rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))][:most] if rows else rows


def shown_row(row: Mapping[str, Any], columns: RowColumns, *, most: int = _MOST_CHARACTERS) -> ShownRow:
    """A row with its result and how it ended, for every kind of job."""
    return ShownRow(
        columns=_shown_inputs(row, columns, most),
        text=clip(_result(row, columns), most),
        note=_note(row, columns),
    )


def shown_answer(
    row: Mapping[str, Any], columns: RowColumns, answer: AnswerColumns, *, most: int, place: str = ""
) -> ShownRow:
    """A row with the answer to one question: label, confidence, the next likely label and the gold label."""
    label, confidence = row.get(answer.label), row.get(answer.confidence)
    gold = row.get(answer.gold_column) if answer.gold_column is not None else None
    return ShownRow(
        columns=_shown_inputs(row, columns, most),
        answer=clip(label, 80) if label is not None else "no label",
        confidence=f"{confidence:.2f}" if isinstance(confidence, float) and label is not None else "",
        runner_up=_next_best(label, _chances(row.get(answer.probabilities))),
        gold=clip(gold, 80) if isinstance(gold, str) else "",
        place=place,
    )


def _next_best(label: Any, chances: Sequence[tuple[str, float]]) -> str:
    """The next likely label; of a row without a label the two most likely ones."""
    texts = [f"{clip(name, 80)} {chance:.2f}" for name, chance in chances if name != label]
    if label is not None:
        return f"then {texts[0]}" if texts else ""
    return "between " + " and ".join(texts[:2]) if len(texts) > 1 else "".join(texts)


def examples_by_label(
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    columns: RowColumns,
    answer: AnswerColumns,
    *,
    most: int,
) -> tuple[tuple[str, tuple[ShownRow, ...]], ...]:
    """Some rows of the sample for each of the most frequent labels, evenly spaced among those with this label."""
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = row.get(answer.label)
        if isinstance(label, str):
            by_label.setdefault(label, []).append(row)
    found = []
    for label in labels[:MOST_EXAMPLE_LABELS]:
        of_label = by_label.get(label, [])
        step = max(1, len(of_label) // EXAMPLES_PER_LABEL)
        chosen = of_label[::step][:EXAMPLES_PER_LABEL]
        if chosen:
            found.append((label, tuple(shown_answer(row, columns, answer, most=most) for row in chosen)))
    return tuple(found)


def place_text(place: Place, names: Sequence[str]) -> str:
    """The part file, without what is the same in all names, and the row in it, counted from 0 as libraries do."""
    return f"{'-'.join(names[place.part].split('-')[:2])}, row {place.row:,}"


def _shown_inputs(row: Mapping[str, Any], columns: RowColumns, most: int) -> tuple[tuple[str, str], ...]:
    given = [name for name in row if columns.is_input(name) and row[name] is not None][:MOST_COLUMNS]
    prompt = columns.prefix + schema.PROMPT
    given += [prompt] if row.get(prompt) is not None and prompt not in given else []
    return tuple((clip(name, 80), _value_text(row[name], most)) for name in given)


def _value_text(value: Any, most: int) -> str:
    return "" if isinstance(value, BrokenText) else clip(value, most)


def _result(row: Mapping[str, Any], columns: RowColumns) -> Any:
    for name in (schema.COMPLETION, schema.COMPLETIONS):
        if row.get(columns.prefix + name) is not None:
            return row[columns.prefix + name]
    given = [(each.question, row[each.label]) for each in columns.answers if row.get(each.label) is not None]
    return "\n".join(f"{name}: {label}" if name else str(label) for name, label in given)


def _note(row: Mapping[str, Any], columns: RowColumns) -> str:
    def of(name: str) -> Any:
        return row.get(columns.prefix + name)

    parts = [f"error: {clip(of(schema.ERROR), 300)}"] if of(schema.ERROR) is not None else []
    reasons = of(schema.FINISH_REASON) or of(schema.FINISH_REASONS)
    if isinstance(reasons, list):
        reasons = ", ".join(f"{end_text(str(name))} {count}" for name, count in Counter(reasons).items())
    if reasons:
        parts.append(end_text(str(reasons)))
    if of(schema.COMPLETION_TOKENS) is not None:
        parts.append(f"{of(schema.COMPLETION_TOKENS):,} tokens")
    if of(schema.BITS_PER_CHARACTER) is not None:
        parts.append(f"{of(schema.BITS_PER_CHARACTER):.2f} bits per character, {of(schema.NUM_TOKENS):,} tokens")
    given = [(each.question, row[each.confidence]) for each in columns.answers if row.get(each.confidence) is not None]
    parts += [f"{f'{name} ' if name else ''}confidence {confidence:.2f}" for name, confidence in given]
    if of(schema.DROP_REASONS):
        parts.append(f"dropped: {', '.join(map(str, of(schema.DROP_REASONS)))}")
    return " · ".join(parts)


def _chances(entries: Any) -> list[tuple[str, float]]:
    """The labels of a row with their probabilities, the most likely first."""
    if not isinstance(entries, list):
        return []
    known = [
        (str(each[schema.LABEL]), float(each[schema.PROBABILITY]))
        for each in entries
        if isinstance(each, Mapping) and isinstance(each.get(schema.PROBABILITY), float)
    ]
    return sorted(known, key=lambda each: -each[1])
