"""What the report and the dataset card say about a finished output, before it is put on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.report.answers import BarChart, answer_sentences, answers_of, chart_of, label_chart, label_names
from tirazh.pipeline.report.examples import examples_text
from tirazh.pipeline.report.rows import ShownRow, evenly, row_columns, sampled_rows, shown_row
from tirazh.pipeline.report.text_figures import TextFigures, count_texts
from tirazh.pipeline.report.verdict import MANY_ERRORS, Verdict, verdict_of
from tirazh.pipeline.report.words import clip, end_text, share_text

_MOST_COUNTS = 30
_LONGEST_NOTE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """`verdict` comes first, then `notes`. `bars` are the charts of labels and of other counts."""

    title: str
    verdict: Verdict
    notes: tuple[str, ...]
    bars: tuple[BarChart, ...]
    rows: tuple[ShownRow, ...] = ()
    figures: TextFigures | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything that is said, the most important first."""
        return (self.verdict.headline, *self.verdict.reasons, *self.notes)


def content_of(manifest: Mapping[str, Any], sample: pa.Table | None, *, more: Sequence[str] = ()) -> Content:
    """Collect the content from a manifest and a sample of the output's rows; None where they cannot be read.

    `more` are reasons to look at the output that others have found.
    """
    columns = row_columns(manifest)
    texts = _texts(sample, columns.prefix)
    figures = count_texts(texts) if texts else None
    rows = evenly(sampled_rows(sample, columns)) if sample is not None else []
    return Content(
        title=f"{manifest['kind']}: {manifest['output']}",
        verdict=verdict_of(manifest, figures, more),
        notes=tuple(_notes(manifest)),
        bars=tuple(charts_of(manifest)),
        rows=tuple(shown_row(row, columns) for row in rows),
        figures=figures,
    )


def sampled_columns(manifest: Mapping[str, Any]) -> list[str]:
    """The columns that `content_of` needs of a sample, those that are not there included."""
    return row_columns(manifest).sampled


def charts_of(manifest: Mapping[str, Any]) -> list[BarChart]:
    """The labels of every question, then how completions ended, their lengths, and reasons to drop rows."""
    rows, errors = int(manifest["rows"]), int(manifest["errors"])
    charts = [label_chart(facts, rows, errors, name=name) for name, facts in answers_of(manifest).items()]
    return [*(chart for chart in charts if chart is not None), *count_charts(manifest)]


def count_charts(manifest: Mapping[str, Any]) -> list[BarChart]:
    """The charts of counts that are no labels and no errors."""
    titles = (
        ("finish_reasons", "How completions ended", "End"),
        ("completion_lengths", "Tokens of a completion", "Tokens"),
        ("drop_reasons", "Why rows were dropped", "Reason"),
        ("masked", "Personal data that was masked", "Kind"),
    )
    found = []
    for name, title, head in titles:
        counts = [(clip(key, 100), int(value)) for key, value in (manifest.get(name) or {}).items()][:_MOST_COUNTS]
        if name == "finish_reasons":
            counts = [(end_text(key), value) for key, value in counts]
        if name == "completion_lengths":
            counts = [(key.replace("-", "\N{EN DASH}"), value) for key, value in counts]
        if counts:
            note = "A row can have several reasons." if name == "drop_reasons" else ""
            total = sum(value for _, value in counts)
            found.append(
                chart_of(title, [(key, value, "value") for key, value in counts], total=total, head=head, note=note)
            )
    return found


def _notes(manifest: Mapping[str, Any]) -> list[str]:
    rows, errors = int(manifest["rows"]), int(manifest["errors"])
    said: list[str] = []
    if 0 < errors < MANY_ERRORS * rows:
        kinds = manifest.get("error_kinds") or {}
        most = f"; the most frequent: {clip(next(iter(kinds)), 300)}" if kinds else ""
        said.append(f"{share_text(errors, rows)} of the rows have an error{most}.")
    dropped = manifest.get("drop_reasons") or {}
    if dropped:
        named = ", ".join(f"{clip(name, 100)} {count:,}" for name, count in list(dropped.items())[:3])
        said.append(f"The most frequent reasons to drop a row: {named}.")
    if manifest.get("few_shot"):
        said.append(f"Examples before every prompt: {examples_text(manifest['few_shot'])}.")
    if manifest.get("head"):
        head = manifest["head"]
        said.append(
            f"The labels are those of a linear head, fitted on {head['examples']:,} examples; in cross-validation "
            f"{head['validated_accuracy']:.1%} of them got their own label."
        )
    for name, facts in answers_of(manifest).items():
        said += answer_sentences(facts, rows, name=name, labels=label_names(manifest["spec"], name))
    return [clip(each, _LONGEST_NOTE) for each in [*said[:_MOST_COUNTS], *_relabelled(manifest)]]


def _relabelled(manifest: Mapping[str, Any]) -> list[str]:
    facts = manifest.get("relabelled")
    if not isinstance(facts, Mapping):
        return []
    thresholds = facts.get("thresholds") or {}
    limits = ", ".join(f"{name + ' ' if name else ''}{value:g}" for name, value in thresholds.items())
    below = f" Rows with a confidence below {limits} have no label." if any(thresholds.values()) else ""
    return [f"The labels were made again from the probabilities in {facts.get('source')}.{below}"]


def _texts(sample: pa.Table | None, prefix: str) -> list[str]:
    if sample is None:
        return []
    if prefix + schema.COMPLETION in sample.column_names:
        return [text for text in sample.column(prefix + schema.COMPLETION).to_pylist() if text is not None]
    if prefix + schema.COMPLETIONS in sample.column_names:
        lists = sample.column(prefix + schema.COMPLETIONS).to_pylist()
        return [text for row in lists if row is not None for text in row if text is not None]
    return []
