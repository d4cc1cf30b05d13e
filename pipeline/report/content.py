"""What the report and the dataset card say about a finished output, before it is put on a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.classification.answer_counts import AnswerColumns, columns_of_answers
from tirazh.pipeline.input.texts import BrokenText, values_of
from tirazh.pipeline.report.answers import Bars, answer_bars, answer_sentences, answers_of, label_names, share_text
from tirazh.pipeline.report.text_figures import TextFigures, count_texts

MAX_SHOWN_TEXTS = 20
_MAX_SHOWN_CHARACTERS = 1_000
_MAX_SHOWN_COLUMNS = 4
# Shares from which a figure is said in the first sentences.
_MANY_CUT = 0.05
_MANY_REPEATED = 0.02
_LESS_DISTINCT = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """One row on the page. `columns` are (name, value) of the input, `note` says how the row ended."""

    columns: tuple[tuple[str, str], ...]
    text: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """`sentences` are the verdict, the most important first. `bars` are titles with (name, count) each."""

    title: str
    sentences: tuple[str, ...]
    bars: tuple[Bars, ...]
    rows: tuple[ShownRow, ...] = ()
    figures: TextFigures | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def content_of(manifest: Mapping[str, Any], sample: pa.Table | None) -> Content:
    """Collect the content from a manifest and a sample of the output's rows; None where they cannot be read."""
    spec = manifest["spec"]
    prefix = spec.get("prefix") or ""
    texts = _texts(sample, prefix)
    figures = count_texts(texts) if texts else None
    return Content(
        title=f"{manifest['kind']}: {manifest['output']}",
        sentences=tuple(_sentences(manifest, figures)),
        bars=tuple(_bars(manifest)),
        rows=tuple(_shown_rows(sample, prefix, columns_of_answers(spec))) if sample is not None else (),
        figures=figures,
        settings={name: value for name, value in spec.items() if value not in (None, [], {}, "", False)},
    )


def sampled_columns(manifest: Mapping[str, Any]) -> list[str]:
    """The columns that `content_of` needs of a sample, those that are not there included."""
    spec = manifest["spec"]
    prefix = spec.get("prefix") or ""
    added = (schema.COMPLETION, schema.COMPLETIONS, schema.FINISH_REASON, schema.FINISH_REASONS)
    more = (schema.COMPLETION_TOKENS, schema.ERROR, schema.KEPT, schema.DROP_REASONS, schema.PROMPT)
    named = [spec.get("prompt_column"), spec.get("text_column"), *(spec.get("vary") or {})]
    answers = [name for each in columns_of_answers(spec) for name in (each.label, each.confidence)]
    return list(
        dict.fromkeys([*(name for name in named if name), *(prefix + name for name in (*added, *more)), *answers])
    )


def _sentences(manifest: Mapping[str, Any], figures: TextFigures | None) -> list[str]:
    rows, errors = int(manifest["rows"]), int(manifest["errors"])
    reasons = manifest.get("finish_reasons") or {}
    said = [*_cut_sentences(manifest["spec"], reasons), *_text_sentences(figures)]
    if errors:
        kinds = manifest.get("error_kinds") or {}
        most = f"; the most frequent: {next(iter(kinds))}" if kinds else ""
        said.insert(0, f"{share_text(errors, rows)} of the rows have an error{most}.")
    dropped = manifest.get("drop_reasons") or {}
    if dropped:
        named = ", ".join(f"{name} {count:,}" for name, count in list(dropped.items())[:3])
        said.append(f"{manifest.get('kept', 0):,} rows were kept. The most frequent reasons to drop one: {named}.")
    for name, facts in answers_of(manifest).items():
        said += answer_sentences(facts, rows, name=name, labels=label_names(manifest["spec"], name))
    return [*said, f"{rows:,} rows are written{'' if errors else ', none with an error'}."]


def _cut_sentences(spec: Mapping[str, Any], reasons: Mapping[str, int]) -> list[str]:
    cut, total = reasons.get("length", 0), sum(reasons.values())
    if not total or cut < _MANY_CUT * total:
        return []
    return [
        f"{share_text(cut, total)} of the completions were cut at {spec.get('max_new_tokens')} tokens (max_new_tokens)."
    ]


def _text_sentences(figures: TextFigures | None) -> list[str]:
    if figures is None:
        return []
    said = []
    if figures.looks_like_json and figures.json_valid < figures.json_texts:
        said.append(
            f"{figures.json_valid:,} of the {figures.json_texts:,} sampled completions that begin like JSON are JSON. "
            "Set schema to make all of them valid."
        )
    if figures.repeated > _MANY_REPEATED * figures.texts:
        said.append(f"Of {figures.texts:,} sampled completions {figures.distinct:,} are distinct.")
    if figures.distinct_2 is not None and figures.distinct_2 < _LESS_DISTINCT and figures.texts >= 100:
        said.append(f"The texts repeat their words: distinct-2 is {figures.distinct_2:.2f}.")
    return said


def _bars(manifest: Mapping[str, Any]) -> list[Bars]:
    found: list[Bars] = []
    for name, facts in answers_of(manifest).items():
        found += answer_bars(facts, name=name)
    titles = (
        ("finish_reasons", "How completions ended"),
        ("completion_lengths", "Tokens of a completion"),
        ("drop_reasons", "Why rows were dropped"),
        ("error_kinds", "Errors"),
    )
    for name, title in titles:
        counts = dict(manifest.get(name) or {})
        if counts:
            found.append((title, tuple((str(key), int(value)) for key, value in counts.items())))
    return found


def _texts(sample: pa.Table | None, prefix: str) -> list[str]:
    if sample is None:
        return []
    if prefix + schema.COMPLETION in sample.column_names:
        return [text for text in sample.column(prefix + schema.COMPLETION).to_pylist() if text is not None]
    if prefix + schema.COMPLETIONS in sample.column_names:
        lists = sample.column(prefix + schema.COMPLETIONS).to_pylist()
        return [text for row in lists if row is not None for text in row if text is not None]
    return []


def _shown_rows(sample: pa.Table, prefix: str, answers: Sequence[AnswerColumns]) -> list[ShownRow]:
    step = max(1, sample.num_rows // MAX_SHOWN_TEXTS)
    chosen = sample.take(list(range(0, sample.num_rows, step))[:MAX_SHOWN_TEXTS])
    added = {prefix + name for name in (*_RESULTS, schema.ERROR, schema.KEPT, schema.DROP_REASONS)}
    added |= {name for each in answers for name in (each.label, each.confidence)}
    names = [name for name in chosen.column_names if name not in added][:_MAX_SHOWN_COLUMNS]
    values = {name: values_of(chosen.column(name)) for name in chosen.column_names}
    rows = []
    for index in range(chosen.num_rows):
        row = {name: column[index] for name, column in values.items()}
        shown = tuple((name, _shorten(row[name])) for name in names)
        text = _shorten(_result(row, prefix, answers))
        rows.append(ShownRow(columns=shown, text=text, note=_note(row, prefix, answers)))
    return rows


_RESULTS = (
    *(schema.COMPLETION, schema.COMPLETIONS, schema.FINISH_REASON, schema.FINISH_REASONS),
    schema.COMPLETION_TOKENS,
)


def _result(row: Mapping[str, Any], prefix: str, answers: Sequence[AnswerColumns]) -> Any:
    for name in (schema.COMPLETION, schema.COMPLETIONS):
        if row.get(prefix + name) is not None:
            return row[prefix + name]
    given = [(each.question, row[each.label]) for each in answers if row.get(each.label) is not None]
    return "\n".join(f"{name}: {label}" if name else str(label) for name, label in given)


def _note(row: Mapping[str, Any], prefix: str, answers: Sequence[AnswerColumns]) -> str:
    parts = []
    if row.get(prefix + schema.ERROR) is not None:
        parts.append(f"error: {row[prefix + schema.ERROR]}")
    reasons = row.get(prefix + schema.FINISH_REASON) or row.get(prefix + schema.FINISH_REASONS)
    if isinstance(reasons, list):
        reasons = ", ".join(f"{name} {count}" for name, count in Counter(reasons).items())
    if reasons:
        parts.append(str(reasons))
    if row.get(prefix + schema.COMPLETION_TOKENS) is not None:
        parts.append(f"{row[prefix + schema.COMPLETION_TOKENS]} tokens")
    given = [(each.question, row[each.confidence]) for each in answers if row.get(each.confidence) is not None]
    parts += [f"{f'{name} ' if name else ''}confidence {confidence:.2f}" for name, confidence in given]
    dropped = row.get(prefix + schema.DROP_REASONS)
    if dropped:
        parts.append(f"dropped: {', '.join(dropped)}")
    return " · ".join(parts)


def _shorten(value: Any) -> str:
    """The value as a text of bounded length that holds no control characters."""
    if value is None or isinstance(value, BrokenText):
        return ""
    texts: Sequence[Any] = value if isinstance(value, list) else [value]
    text = "\n".join(str(each) for each in texts)
    text = "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + "…"
