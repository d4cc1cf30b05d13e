"""Compares a finished output with earlier ones, and returns everything that the page shows as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tirazh.pipeline import schema
from tirazh.pipeline.drift.baselines import Baselines, NamedOutput
from tirazh.pipeline.drift.changed_rows import changed_rows
from tirazh.pipeline.drift.counts import AnswerCounts, Histogram, pooled
from tirazh.pipeline.drift.estimate import estimated_difference, gold_gap
from tirazh.pipeline.drift.figures import OF_OUTPUTS, Measured
from tirazh.pipeline.drift.findings import LEVEL, Findings, find
from tirazh.pipeline.drift.gold import gold_of
from tirazh.pipeline.drift.read import (
    LabelNumbers,
    OutputColumns,
    OutputRows,
    columns_of,
    read_output,
    settings_of,
)
from tirazh.pipeline.drift.row_ids import identity_columns
from tirazh.pipeline.drift.same_job import differences, label_differences
from tirazh.pipeline.drift.significance import expected_psi, psi
from tirazh.pipeline.drift.verdict import changes, verdict
from tirazh.pipeline.report.sample import sample_rows
from tirazh.pipeline.report.text_figures import count_texts

SHOWN_BINS = 20


def compare(compared: Baselines, *, key: str | None = None) -> dict[str, Any]:
    """Compare an output with its baselines; without any the values are those of the output alone.

    `key` names the column by which a row is found in the baselines. Baselines are read one after the other, and of the
    rows of one about 12 bytes each are held, beside those of the output. Raises InputError for a damaged part, and
    RequestError for a `key` that an output does not have.
    """
    numbers = LabelNumbers()
    output = compared.output
    identity = identity_columns(output.found, _asked(output), key) if compared.baselines else ()
    columns = columns_of(output.found, identity)
    here, rows = _measured(output, columns, numbers)
    measured, changed, notes = [], [], list(compared.left_out)
    for other in compared.baselines:
        names = identity_columns(other.found, _asked(other), key)
        is_same = bool(identity) and set(identity) <= {*other.found.columns.names}
        there, others = _measured(other, columns_of(other.found, identity if is_same else names), numbers)
        measured.append(there)
        pairs = changed_rows(output, rows, others, numbers, identity) if is_same else []
        changed += [{"baseline": other.name, "by": list(identity), **each} for each in pairs]
    same = _same_labels(columns, compared.baselines)
    found = find(here, measured, same)
    values: dict[str, Any] = {
        "output": _described(output, here),
        "baselines": [_described(*each) for each in zip(compared.baselines, measured, strict=True)],
        "figures": [each.to_dict() for each in found.figures],
    }
    if not compared.baselines:
        return values
    return {
        "verdict": verdict(found, compared),
        "changes": list(changes(found)),
        "together": compared.together,
        "level": LEVEL,
        "differences": differences(output, compared.baselines),
        "notes": notes,
        **values,
        "questions": _questions(here, measured, found, same, is_fitted=_is_fitted(output)),
        "changed_rows": changed,
    }


def _asked(output: NamedOutput) -> Mapping[str, Any]:
    """The settings that say which columns a prompt is made from."""
    return settings_of(output.found.manifest, "classify") or output.found.spec


def _is_fitted(output: NamedOutput) -> bool:
    """Whether the confidences were calibrated on labelled rows."""
    return _asked(output).get("calibrate") not in (None, "contextual", "batch")


def _measured(output: NamedOutput, columns: OutputColumns, numbers: LabelNumbers) -> tuple[Measured, OutputRows]:
    counts, rows = read_output(output.found, columns, numbers)
    manifest = output.found.manifest
    facts = {name: _number(manifest.get(name)) for name in OF_OUTPUTS} | {"rows": float(counts.rows)}
    facts["distinct_2"] = _distinct(output)
    return Measured(counts=counts, gold=gold_of(output.found), facts=facts), rows


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _distinct(output: NamedOutput) -> float | None:
    """Distinct-2 of a sample of the completions, as on the report; None without texts."""
    found = output.found
    settings = settings_of(found.manifest, "generate") or found.spec
    name = (settings.get("prefix") or "") + schema.COMPLETION
    if name not in found.columns.names:
        return None
    sample = sample_rows(found.files.storage, [found.files.part(part) for part, _ in found.parts], [name])
    if sample is None or name not in sample.column_names:
        return None
    texts = [text for text in pl.from_arrow(sample).to_series().to_list() if text is not None]  # type: ignore[union-attr]
    return count_texts(texts).distinct_2


def _same_labels(columns: OutputColumns, baselines: Sequence[NamedOutput]) -> dict[str, list[bool]]:
    """Which of the baselines have the same labels of each question."""
    found: dict[str, list[bool]] = {}
    of_each = [{each.name: each.labels for each in columns_of(other.found).questions} for other in baselines]
    for question in columns.questions:
        labels = [
            each.get(question.name) if other.found.parts else question.labels
            for each, other in zip(of_each, baselines, strict=True)
        ]
        found[question.name] = [
            names is not None and not any(label_differences(question.labels, names).values()) for names in labels
        ]
    return found


def _described(output: NamedOutput, measured: Measured) -> dict[str, Any]:
    """The row of one output in the table of outputs."""
    values = measured.values()
    answers = measured.counts.answers
    return {
        "name": output.name,
        "uri": output.uri,
        "date": output.date or None,
        "rows": measured.counts.rows,
        **{name: values.get((name, "")) for name in ("errors", "length", "completion_length", "bits_per_character")},
        **{name: values.get((name, "")) for name in ("seconds", "tokens_per_s")},
        "questions": {
            name: {
                **{each: values.get((each, name)) for each in ("abstained", "confidence", "estimated_accuracy")},
                **{each: values.get((each, name)) for each in ("accuracy", "macro_f1")},
                "labels": dict(sorted(counts.labels.items(), key=lambda item: (-item[1], item[0]))),
                "no_label": counts.abstained,
            }
            for name, counts in answers.items()
        },
    }


def _questions(
    here: Measured,
    measured: Sequence[Measured],
    found: Findings,
    same: Mapping[str, Sequence[bool]],
    *,
    is_fitted: bool,
) -> dict[str, Any]:
    """Labels, confidences and estimated accuracy of every question."""
    pool = pooled(each.counts for each in measured)
    values = {}
    for question, answers in here.counts.answers.items():
        other = pool.answers.get(question, AnswerCounts())
        values[question] = {
            "labels": found.labels[question].to_dict() | {"same_labels": list(same.get(question, ()))},
            "confidence": _confidence(answers.histogram, other.histogram),
            "estimated_accuracy": _estimated(here, measured, answers, other, question) | {"is_calibrated": is_fitted},
        }
    return values


def _confidence(here: Histogram, there: Histogram) -> dict[str, Any]:
    first, second = _shown_bins(here), _shown_bins(there)
    index, expected = psi(first, second), expected_psi(first, second)
    return {
        "bins": first.tolist(),
        "baseline_bins": second.tolist(),
        "psi": index,
        "corrected_psi": max(0.0, index - expected),
    }


def _shown_bins(histogram: Histogram) -> Histogram:
    if not len(histogram):
        return histogram
    bins: Histogram = histogram.reshape(SHOWN_BINS, -1).sum(axis=1)
    return bins


def _estimated(
    here: Measured, measured: Sequence[Measured], answers: AnswerCounts, other: AnswerCounts, question: str
) -> dict[str, Any]:
    difference = estimated_difference(answers.answered, other.answered)
    return {
        "difference": None if difference is None else difference[0],
        "interval": None if difference is None else list(difference[1:]),
        "gold": next(_gaps(here, answers, question), None),
        "baseline_gold": next(_pooled_gaps(measured, other, question), None),
    }


def _gaps(measured: Measured, answers: AnswerCounts, question: str) -> Iterator[dict[str, Any]]:
    """The gap on the rows of the gold column; without them on those of `tirazh evaluate`."""
    gold = measured.gold.get(question)
    evaluated = AnswerCounts(gold_answers=gold.answers, gold_right=gold.answers_right) if gold else AnswerCounts()
    for each in (answers, evaluated):
        gap = gold_gap(each)
        if gap is not None:
            yield gap


def _pooled_gaps(measured: Sequence[Measured], other: AnswerCounts, question: str) -> Iterator[dict[str, Any]]:
    evaluated = [each.gold[question] for each in measured if question in each.gold]
    total = AnswerCounts()
    for each in evaluated:
        total += AnswerCounts(gold_answers=each.answers, gold_right=each.answers_right)
    for counts in (other, total):
        gap = gold_gap(counts)
        if gap is not None:
            yield gap
