"""The comparison of an output with another one: their figures and labels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.report.answers import answers_of, figures_of, label_counts
from tirazh.pipeline.report.overview import Table

_FACTS = (
    *("rows", "errors", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_s", "num_parts", "replicas"),
    *("replica_deaths", "accuracy", "macro_f1", "mean_confidence", "abstained", "dtype", "model_fingerprint"),
)
_ANSWER_FACTS = ("accuracy", "macro_f1", "mean_confidence", "abstained")


def tables_against(manifest: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Table, ...]:
    """The figures and the labels of this output and of `other`, another manifest."""
    heads = ("", "this run", str(other.get("output", "the other")))
    pages = (manifest, other)
    figures = [figures_of(page) for page in pages]
    names = [*_FACTS, *(f"{question} {name}" for question in _questions(pages) for name in _ANSWER_FACTS)]
    rows = [(name, *(_shown(each.get(name)) for each in figures)) for name in names]
    labels = _labels(label_counts(manifest), label_counts(other))
    return (
        Table(title="Figures of both runs", heads=heads, rows=tuple(row for row in rows if any(row[1:]))),
        *([Table(title="Labels of both runs", heads=heads, rows=tuple(labels))] if labels else []),
    )


def _questions(pages: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for page in pages for name in answers_of(page) if name))


def _labels(labels: Mapping[str, int], other: Mapping[str, int]) -> list[tuple[str, ...]]:
    totals = sum(labels.values()), sum(other.values())
    return [
        (name, _share(labels.get(name, 0), totals[0]), _share(other.get(name, 0), totals[1]))
        for name in dict.fromkeys([*labels, *other])
    ]


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else "0"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)
