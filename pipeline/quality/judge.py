"""Judges the rows of a generate output: masks personal data and lists the reasons for which each row is dropped.

`quality_config` is called once on the driver and checks everything; `judge` is a pure function of one table, and the
reasons of a row depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.input.footers import is_string
from tirazh.pipeline.quality.characters import Characters, Mask
from tirazh.pipeline.quality.contamination import EvaluationSet
from tirazh.pipeline.quality.expression import check_expression, is_true
from tirazh.pipeline.quality.measures import Sample, fails, too_many_bits
from tirazh.pipeline.quality.pii import mask_json_strings, mask_texts, parse_kinds
from tirazh.pipeline.quality.rules import CONTAMINATED, EMPTY, ERROR, EXPRESSION, Rule, parse_filters
from tirazh.pipeline.quality.words import Words

# A slice of a table is judged at once: bounds for the memory of its arrays, about 60 bytes a character.
_SLICE_ROWS, _SLICE_CHARACTERS = 4_096, 2_000_000
_FINISHED = "stop"


class QualitySpec(Protocol):
    """The settings of a `GenerateSpec` that are read here."""

    @property
    def filters(self) -> Any: ...
    @property
    def pii(self) -> tuple[str, ...]: ...
    @property
    def prefix(self) -> str: ...
    @property
    def schema(self) -> Any: ...
    @property
    def schema_column(self) -> str | None: ...


@dataclass(frozen=True)
class QualityConfig:
    """What is asked of the rows. It pickles; `evaluation` is its only large part.

    `text_columns` hold the text that rules without `column:` judge, joined by line breaks: the completion, or with
    `schema:` its string fields. `masked_columns` are the columns in which personal data is masked; `is_json` says that
    the completion is JSON, in which only strings are masked. `expression_columns` are those that each expression reads.
    """

    rules: tuple[Rule, ...]
    pii: tuple[str, ...]
    completion: str
    text_columns: tuple[str, ...]
    masked_columns: tuple[str, ...]
    is_json: bool
    prompt_column: str | None
    finish_column: str
    error_column: str
    logprob_column: str
    expression_columns: Mapping[str, tuple[str, ...]]
    evaluation: EvaluationSet | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason that a row can get, in the order in which a row's reasons are listed."""
        contaminated = (CONTAMINATED,) if self.evaluation is not None else ()
        return (ERROR, EMPTY, *(rule.reason for rule in self.rules), *contaminated)


def quality_config(
    spec: QualitySpec,
    columns: pa.Schema,
    *,
    text_column: str,
    prompt_column: str | None,
    evaluation: EvaluationSet | None = None,
) -> QualityConfig | None:
    """Check `filters`, `pii` and the evaluation set against the columns of the output; None if nothing is asked.

    `columns` are those that `judge` will get. `text_column` is the name of the completion, `prompt_column` that of the
    rendered prompt, None without one. Raises RequestError for an unknown rule, column or function, and for a rule whose
    column the output does not have.
    """
    rules, kinds = parse_filters(spec.filters), parse_kinds(spec.pii)
    if not rules and not kinds and evaluation is None:
        return None
    if text_column not in columns.names or not is_string(columns.field(text_column).type):
        raise RequestError("--filters, --pii and --against need one row for each completion; remove --samples-as lists")
    fields = _string_fields(spec, columns)
    config = QualityConfig(
        rules=rules,
        pii=kinds,
        completion=text_column,
        text_columns=tuple(name for name, is_free in fields.items() if is_free) or (text_column,),
        masked_columns=(text_column, *fields),
        is_json=spec.schema is not None or spec.schema_column is not None,
        prompt_column=prompt_column,
        finish_column=spec.prefix + schema.FINISH_REASON,
        error_column=spec.prefix + schema.ERROR,
        logprob_column=spec.prefix + schema.LOGPROB,
        expression_columns={
            rule.value: check_expression(rule.value, columns) for rule in rules if rule.name == EXPRESSION
        },
        evaluation=evaluation,
    )
    for rule in rules:
        _check_rule(rule, config, columns)
    return config


def judge(table: pa.Table, config: QualityConfig) -> tuple[pa.Table, list[list[str]]]:
    """Return the table with personal data masked, and for each row the reasons to drop it ([]: it passes).

    Rules judge the masked texts. A row with an error has the one reason `error`, one without text the one reason
    `empty`. This is `mask_table` followed by `drop_reasons`; who needs the number of masks calls the two.
    """
    masked, _ = mask_table(table, config)
    return masked, drop_reasons(masked, config)


def mask_table(table: pa.Table, config: QualityConfig) -> tuple[pa.Table, dict[str, int]]:
    """Mask personal data in the generated columns.

    Returns the table and the number of masks in the completions, by kind.
    """
    counts = dict.fromkeys(config.pii, 0)
    for name in config.masked_columns if config.pii else ():
        column = table.column(name)
        mask = mask_json_strings if config.is_json and name == config.completion else mask_texts
        texts, found = mask(_texts(column), config.pii)
        if any(found.values()):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), pa.chunked_array([pa.array(texts, column.type)]))
        if name == config.completion:
            counts = found
    return table, counts


def drop_reasons(table: pa.Table, config: QualityConfig) -> list[list[str]]:
    """For each row of a masked table the reasons to drop it, in the order of `QualityConfig.reasons`."""
    reasons: list[list[str]] = []
    for part in _slices(table, config):
        rows = _without_text(part, config)
        is_judged = np.fromiter((not found for found in rows), np.bool_, len(rows))
        for reason, failing in _failing(part, config):
            for row in np.flatnonzero(failing & is_judged):
                rows[row].append(reason)
        reasons += rows
    return reasons


def text_of(table: pa.Table, config: QualityConfig) -> list[str]:
    """The text of each row that rules without `column:` judge and that is compared with evaluation sets."""
    columns = [_texts(table.column(name)) for name in config.text_columns]
    return ["\n".join(text for text in row if text) for row in zip(*columns, strict=True)]


def _failing(table: pa.Table, config: QualityConfig) -> Iterator[tuple[str, Mask]]:
    """The reason of each rule, and which rows fail it."""
    samples: dict[str | None, Sample] = {}

    def sample_of(column: str | None) -> Sample:
        if column not in samples:
            texts = text_of(table, config) if column is None else _filled(table.column(column))
            samples[column] = Sample(texts, partial(_prompt_words, table, config.prompt_column))
        return samples[column]

    for rule in config.rules:
        if rule.name == EXPRESSION:
            yield rule.reason, ~is_true(rule.value, config.expression_columns[rule.value], table)
        elif rule.name == "finished":
            finish = values_of(table.column(config.finish_column))
            yield rule.reason, np.fromiter((reason != _FINISHED for reason in finish), np.bool_, len(finish))
        elif rule.name == "max_bits_per_char":
            completions = _filled(table.column(config.completion))
            yield rule.reason, too_many_bits(rule.value, table.column(config.logprob_column), completions)
        elif rule.name != "valid":  # every row with an error is dropped
            yield rule.reason, fails(rule.name, rule.value, sample_of(rule.column))
    if config.evaluation is not None:
        yield CONTAMINATED, config.evaluation.contaminates(sample_of(None).words)


def _prompt_words(table: pa.Table, prompt_column: str | None) -> Words:
    assert prompt_column is not None  # checked by `quality_config`
    return Words(Characters(_filled(table.column(prompt_column))))


def _slices(table: pa.Table, config: QualityConfig) -> Iterator[pa.Table]:
    """Cut the table so that a slice has bounded rows and, beyond one row, bounded characters."""
    names = {*config.text_columns, *(rule.column for rule in config.rules if rule.column is not None)}
    sizes = np.zeros(table.num_rows, np.int64)
    for name in {*names, *([config.prompt_column] if config.prompt_column in table.column_names else [])}:
        sizes += np.fromiter(map(len, _filled(table.column(name))), np.int64, table.num_rows)
    first = total = 0
    for row, size in enumerate(sizes.tolist()):
        if row > first and (row - first >= _SLICE_ROWS or total + size > _SLICE_CHARACTERS):
            yield table.slice(first, row - first)
            first, total = row, 0
        total += size
    if first < table.num_rows:
        yield table.slice(first)


def _without_text(table: pa.Table, config: QualityConfig) -> list[list[str]]:
    """[`error`] for each row with an error or without a completion, [`empty`] for each without text, else []."""
    completions = _texts(table.column(config.completion))
    errors = table.column(config.error_column) if config.error_column in table.column_names else None
    failed = errors.is_valid().to_pylist() if errors is not None else [False] * table.num_rows
    return [
        [ERROR] if has_failed or completion is None else [EMPTY] if not text.strip() else []
        for has_failed, completion, text in zip(failed, completions, text_of(table, config), strict=True)
    ]


def _string_fields(spec: QualitySpec, columns: pa.Schema) -> dict[str, bool]:
    """The output columns of the schema's string properties; True for free text, False for one of an `enum`."""
    properties = spec.schema.get("properties") if isinstance(spec.schema, Mapping) else None
    found: dict[str, bool] = {}
    for name, rule in properties.items() if isinstance(properties, Mapping) else ():
        column = next((each for each in (f"{spec.prefix}{name}", name) if each in columns.names), None)
        if column is not None and is_string(columns.field(column).type):
            found[column] = not (isinstance(rule, Mapping) and ("enum" in rule or "const" in rule))
    return found


def _check_rule(rule: Rule, config: QualityConfig, columns: pa.Schema) -> None:
    if rule.column is not None:
        if rule.column not in columns.names:
            texts = [field.name for field in columns if is_string(field.type)]
            close = did_you_mean(rule.column, texts) or f"; columns of text are {', '.join(texts)}"
            raise RequestError(f"--filters: {rule.name} names the column {rule.column}, which there is not{close}")
        if not is_string(columns.field(rule.column).type):
            kind = columns.field(rule.column).type
            raise RequestError(f"--filters: {rule.name} judges text, but the column {rule.column} is of type {kind}")
    if rule.name == "max_prompt_copy" and (config.prompt_column is None or config.prompt_column not in columns.names):
        raise RequestError(
            "--filters: max_prompt_copy compares with the prompt, which is not in the output; add keep: [prompt]"
        )
    if rule.name == "finished" and config.finish_column not in columns.names:
        raise RequestError("--filters: finished needs a finish reason for each completion; remove --samples-as lists")
    if rule.name == "max_bits_per_char" and config.logprob_column not in columns.names:
        raise RequestError(
            "--filters: max_bits_per_char needs the log-probability of the completions; add keep: [logprob]"
        )


def _texts(column: pa.ChunkedArray[Any]) -> list[str | None]:
    """The texts; None for null and for bytes that are not UTF-8."""
    return [value if isinstance(value, str) else None for value in values_of(column)]


def _filled(column: pa.ChunkedArray[Any]) -> list[str]:
    return [text or "" for text in _texts(column)]
