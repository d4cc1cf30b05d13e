"""What a report says about the answers of classify: labels, abstentions, confidences, and accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Bars = tuple[str, tuple[tuple[str, int], ...]]


def answers_of(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of each question by its name, "" in a job that asks one without a name; empty for other kinds."""
    named = manifest.get("questions")
    if isinstance(named, Mapping):
        return {str(name): facts for name, facts in named.items() if isinstance(facts, Mapping)}
    return {"": manifest} if "labels" in manifest or manifest.get("accuracy") is not None else {}


def label_names(spec: Mapping[str, Any], question: str) -> frozenset[str]:
    """The names of the labels of a question, from the values of a spec."""
    asked = (spec.get("questions") or {}).get(question, {}) if question else spec
    labels = asked.get("labels") or ()
    return frozenset(part.strip() for part in labels.split(",")) if isinstance(labels, str) else frozenset(labels)


def answer_sentences(facts: Mapping[str, Any], rows: int, *, name: str, labels: frozenset[str]) -> Iterator[str]:
    """Sentences about the answers to a question: accuracy, rows of a higher level, and rows without a label.

    `rows` are all rows of the output and `labels` the names of the question's labels.
    """
    about = f"{name}: " if name else ""
    if facts.get("accuracy") is not None:
        gold = f"{facts['accuracy']:.1%} of the {facts['gold_rows']:,} rows with a gold label"
        yield f"{about}{gold} have it as their label (macro-F1 {facts['macro_f1']:.3f})."
    above = sum(count for label, count in (facts.get("labels") or {}).items() if label not in labels) if labels else 0
    if above:
        yield f"{about}{share_text(above, rows)} of the rows have a level above the labels as their label."
    abstained = int(facts.get("abstained") or 0)
    if abstained:
        none_label = int((facts.get("abstained_by") or {}).get("none_label", 0))
        yield f"{about}{share_text(abstained, rows)} of the rows have no label: {_reasons(abstained, none_label)}."


def _reasons(abstained: int, by_none: int) -> str:
    if not by_none:
        return "the confidence was too low"
    if by_none == abstained:
        return "the most likely label was the one for none of the others"
    return (
        f"in {abstained - by_none:,} the confidence was too low, in {by_none:,} the most likely label was the "
        "one for none of the others"
    )


def answer_bars(facts: Mapping[str, Any], *, name: str) -> Iterator[Bars]:
    """The labels of a question and its confidences: titles, with (name, rows) each."""
    labels = [(str(label), int(count)) for label, count in (facts.get("labels") or {}).items()]
    abstained = int(facts.get("abstained") or 0)
    labels += [("(no label)", abstained)] if abstained else []
    about = f": {name}" if name else ""
    if labels:
        yield f"Labels{about}", tuple(labels)
    confidences: Sequence[int] = facts.get("confidences") or ()
    if confidences:
        first = next((index for index, count in enumerate(confidences) if count), 0)
        ranges = [
            (f"{index / len(confidences):.2f}–{(index + 1) / len(confidences):.2f}", int(count))
            for index, count in enumerate(confidences)
        ]
        yield f"Confidence{about}", tuple(ranges[first:])


def label_counts(facts: Mapping[str, Any]) -> dict[str, int]:
    """The rows of every label; those of several questions after the name of the question."""
    return {
        f"{name}: {label}" if name else str(label): int(count)
        for name, each in answers_of(facts).items()
        for label, count in (each.get("labels") or {}).items()
    }


def figures_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a manifest, and those of each of several questions after its name."""
    named = {name: facts for name, facts in answers_of(manifest).items() if name}
    return dict(manifest) | {f"{name} {fact}": value for name, facts in named.items() for fact, value in facts.items()}


def share_text(count: int, total: int) -> str:
    """A share as a percentage, or the count itself if the share is very small."""
    share = count / total
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" if share >= 0.001 else f"{count:,}"
