"""Reads the few-shot examples of classify, and writes each of them as a prompt with its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, RowError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.classification.questions import Question
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.input.repetitions import content_of
from tirazh.pipeline.input.texts import BrokenText, values_of
from tirazh.pipeline.prompts.control_marks import holds_any
from tirazh.pipeline.prompts.encode import PromptWriter
from tirazh.pipeline.prompts.examples_file import parse_examples
from tirazh.pipeline.prompts.label_tokens import label_words
from tirazh.pipeline.storage.errors import show_uri

BETWEEN_EXAMPLES = "\n\n"


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the file of examples.

    `number` is its row in the file, from 1. `text` is the text to classify, `labels` has the label of each
    question, `written` the example as it stands in a prompt: the prompt and the words of the label, for each
    question. Rows with equal `content` are equal.
    """

    number: int
    text: str
    labels: tuple[str, ...]
    written: str
    content: str


def read_examples(uri: str, data: bytes, questions: Sequence[Question], writer: PromptWriter) -> list[Example]:
    """Return the examples in `data`, the content of the file `uri`, in file order.

    `writer` makes prompts of rows, without examples. The label of a question stands in the column `label`, or in the
    column of the question's name. Raises InputError for a file, a row or a label that cannot be used.
    """
    columns, marks = writer.config.columns, writer.config.template.marks
    separator = separator_of(writer)
    table = parse_examples(uri, data)
    label_columns = [question.column(schema.LABEL) for question in questions]
    names = list(dict.fromkeys((*columns.values(), *label_columns)))
    for column in names:
        check_text_column(table.schema, column, flag=f"in --examples {show_uri(uri)}")
    words = [{label.name: label.words for label in question.labels} for question in questions]
    examples = []
    for number, row in enumerate(_rows(table, names), start=1):
        labels = tuple(row[column] for column in label_columns)
        _check_row(number, row, labels, words)
        variables = {name: row[column] for name, column in columns.items()}
        chosen = [known[label] for known, label in zip(words, labels, strict=True)]
        if holds_any({**variables, schema.LABEL: chosen}, marks):
            raise InputError(f"--examples, row {number} contains a private-use character; remove it")
        try:
            prompt = writer.render(variables).rstrip()
        except RowError as error:
            raise InputError(f"--examples, row {number}: {error}") from None
        parts = [
            (prompt + question.suffix).rstrip() + label_words(text)
            for question, text in zip(questions, chosen, strict=True)
        ]
        content = content_of([*variables.values(), *labels])
        text = row[columns[writer.config.text_variable]]
        examples.append(Example(number, str(text), labels, separator.join(parts), content))
    return examples


def separator_of(writer: PromptWriter) -> str:
    """Return the text between two examples: an empty line, or nothing where every prompt begins with a control token
    of the template, which then separates the examples."""
    return "" if empty_prompt(writer)[:1] in writer.config.template.marks.values() else BETWEEN_EXAMPLES


def empty_prompt(writer: PromptWriter) -> str:
    """Return the prompt of a row without any text."""
    template = writer.config.template
    return writer.render({name: template.probe(name, "") for name in writer.config.columns})


def _rows(table: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    columns = [values_of(table.column(name)) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _check_row(number: int, row: Mapping[str, Any], labels: Sequence[Any], words: Sequence[Mapping[str, str]]) -> None:
    for name, value in row.items():
        if isinstance(value, BrokenText):
            raise InputError(f"--examples, row {number}: column {name!r} {value.reason}")
    for known, label in zip(words, labels, strict=True):
        if label not in known:
            hint = did_you_mean(label, known) if isinstance(label, str) else ""
            raise InputError(f"--examples, row {number}: {label!r} is not one of the labels {', '.join(known)}{hint}")
