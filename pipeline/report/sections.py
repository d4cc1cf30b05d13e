"""The parts of a page about single rows: answers to a question, the least certain rows, and rows with an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tirazh.pipeline import schema
from tirazh.pipeline.classification.answer_counts import AnswerColumns
from tirazh.pipeline.report.answers import LONGEST_NAME, BarChart, answers_of, confidence_sentence, label_chart
from tirazh.pipeline.report.charts import Chart, confidence_chart
from tirazh.pipeline.report.least_certain import LEAST_CERTAIN, Scan
from tirazh.pipeline.report.rows import (
    RowColumns,
    ShownRow,
    evenly,
    examples_by_label,
    place_text,
    shown_answer,
    shown_row,
)
from tirazh.pipeline.report.text_figures import TextFigures
from tirazh.pipeline.report.words import clip, counted, percent_text

_MOST_ERROR_TEXT = 300
# The least certain rows of each question, however many questions there are.
_FEWEST_ROWS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionView:
    """What the page shows of the answers to one question.

    `least` are its least certain rows and `least_note` says among which rows they are. `examples` are some rows of
    every label. `about` ends the titles; it is empty if the job asks a single question.
    """

    about: str
    labels: BarChart | None
    confidences: Chart | None
    least: tuple[ShownRow, ...] = ()
    least_note: str = ""
    examples: tuple[tuple[str, tuple[ShownRow, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorView:
    """A kind of error, with the rows that have it and one of them."""

    text: str
    rows: str
    row: ShownRow | None


def question_views(
    manifest: Mapping[str, Any],
    columns: RowColumns,
    scan: Scan | None,
    rows: Sequence[Mapping[str, Any]],
    *,
    most: int,
) -> tuple[QuestionView, ...]:
    """The questions of a classify job. `rows` are those of the sample; texts have at most `most` characters."""
    found = []
    by_question = {each.question: each for each in columns.answers}
    for name, facts in answers_of(manifest).items():
        answer = by_question.get(name)
        about = f": {clip(name, LONGEST_NAME)}" if name else ""
        least, note = _least(manifest, columns, scan, answer, most) if answer and most else ((), "")
        examples: tuple[tuple[str, tuple[ShownRow, ...]], ...] = ()
        if answer is not None and most:
            labels = sorted(facts.get("labels") or {}, key=lambda label: -int(facts["labels"][label]))
            examples = examples_by_label(rows, labels, columns, answer, most=most)
        found.append(
            QuestionView(
                about=about,
                labels=label_chart(facts, int(manifest["rows"]), int(manifest["errors"]), name=name),
                confidences=confidence_chart(
                    facts.get("confidences") or (),
                    title=f"Confidence{about}",
                    threshold=_threshold(manifest, name),
                    caption=_caption(manifest, name, facts),
                ),
                least=least,
                least_note=note,
                examples=examples,
            )
        )
    return tuple(found)


def error_views(
    manifest: Mapping[str, Any], columns: RowColumns, scan: Scan | None, *, most: int
) -> tuple[ErrorView, ...]:
    """The kinds of errors with an example each. An error whose text names its row is counted by the text alone."""
    kinds = {str(text): int(count) for text, count in (manifest.get("error_kinds") or {}).items()}
    found = []
    places = dict(scan.errors) if scan is not None else {}
    names = [str(part["name"]) for part in manifest.get("parts") or []]
    for text, count in kinds.items():
        place = places.get(text) or next((each for full, each in places.items() if full.startswith(text)), None)
        row = None
        if place is not None and scan is not None and most and place in scan.values:
            values = {name: value for name, value in scan.values[place].items() if name != columns.error}
            made = shown_row(values, columns, most=most)
            row = ShownRow(columns=made.columns, text=made.text, place=place_text(place, names))
        found.append(ErrorView(text=clip(text, _MOST_ERROR_TEXT), rows=counted(count, "row"), row=row))
    return tuple(found)


def plain_rows(rows: Sequence[dict[str, Any]], columns: RowColumns, *, count: int, most: int) -> tuple[ShownRow, ...]:
    """Some rows of the sample, evenly spaced; those of a score job from the least to the most likely text."""
    if not count:
        return ()
    scored = _scored(rows, columns)
    chosen = evenly(sorted(scored, key=lambda row: -row[_bits(columns)]) if scored else rows, count)
    return tuple(shown_row(row, columns, most=most) for row in chosen)


def sample_note(rows: Sequence[dict[str, Any]], columns: RowColumns, figures: TextFigures | None) -> str:
    """What the sample says about completions or scores as a whole."""
    if figures is not None:
        pairs = figures.distinct_2
        differ = f"; {percent_text(pairs)} of their pairs of words are different ones" if pairs is not None else ""
        return f"In a sample of {counted(figures.texts, 'text')} {figures.distinct:,} are distinct{differ}."
    bits = sorted(row[_bits(columns)] for row in _scored(rows, columns))
    if not bits:
        return ""
    return (
        f"In a sample of {counted(len(bits), 'text')} the median is {bits[len(bits) // 2]:.2f} bits per character, the "
        f"range {bits[0]:.2f} to {bits[-1]:.2f}. The least likely texts come first."
    )


def _scored(rows: Sequence[dict[str, Any]], columns: RowColumns) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row.get(_bits(columns)), float)]


def _bits(columns: RowColumns) -> str:
    return columns.prefix + schema.BITS_PER_CHARACTER


def _least(
    manifest: Mapping[str, Any], columns: RowColumns, scan: Scan | None, answer: AnswerColumns, most: int
) -> tuple[tuple[ShownRow, ...], str]:
    if scan is None or not scan.least.get(answer.question):
        return (), ""
    places = [place for place in scan.least[answer.question] if place in scan.values]
    names = [str(part["name"]) for part in manifest["parts"]]
    rows = tuple(
        shown_answer(scan.values[place], columns, answer, most=most, place=place_text(place, names)) for place in places
    )
    among = f"all {scan.rows:,} rows" if scan.scanned == scan.rows else f"{scan.scanned:,} of {scan.rows:,} rows"
    rows = rows[: max(_FEWEST_ROWS, LEAST_CERTAIN // len(scan.least))]
    return rows, f"The {counted(len(rows), 'row')} with the lowest confidence among {among}, the lowest first."


def _threshold(manifest: Mapping[str, Any], question: str) -> float | None:
    """The confidence below which a row has no label, if it is known."""
    spec = manifest["spec"]
    relabelled = (manifest.get("relabelled") or {}).get("thresholds") or {}
    asked = (spec.get("questions") or {}).get(question, {}) if question else spec
    value = relabelled.get(question, asked.get("abstain_below") if isinstance(asked, Mapping) else None)
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None


def _caption(manifest: Mapping[str, Any], question: str, facts: Mapping[str, Any]) -> str:
    threshold = _threshold(manifest, question)
    line = f" Rows left of the line, below {threshold:g}, have no label." if threshold is not None else ""
    return f"{confidence_sentence(facts)}{line}".strip()
