"""What a report says about the answers of classify: labels, abstentions, confidences, and accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tirazh.pipeline.report.words import clip, counted, percent_text, rounded_shares, share_text

# Labels beyond these are added up in one bar.
MOST_BARS = 30
LONGEST_NAME = 80
# From here on a page asks somebody to look.
MANY_ABSTAINED = 0.1
MANY_UNCERTAIN = 0.2
UNCERTAIN = 0.5
LOW_ACCURACY = 0.7
SAME_LABEL = 0.95
_MIN_ROWS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One line of a bar chart: `share` is a text, `width` in percent of the longest bar."""

    name: str
    count: int
    share: str
    width: float
    kind: Literal["value", "none", "error"] = "value"


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """Bars of counts. `head` says what the names of the bars are."""

    title: str
    head: str
    bars: tuple[Bar, ...]
    note: str = ""


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


def answer_reasons(facts: Mapping[str, Any], rows: int, *, name: str) -> Iterator[str]:
    """What somebody should look at in the answers to a question. `rows` are all rows of the output."""
    about = f"{name}: " if name else ""
    abstained = int(facts.get("abstained") or 0)
    if abstained and abstained >= MANY_ABSTAINED * rows:
        none_label = int((facts.get("abstained_by") or {}).get("none_label", 0))
        yield f"{about}{share_text(abstained, rows)} of the rows have no label: {_why(abstained, none_label)}."
    accuracy, gold_rows = facts.get("accuracy"), int(facts.get("gold_rows") or 0)
    if accuracy is not None and gold_rows >= _MIN_ROWS and accuracy < LOW_ACCURACY:
        yield f"{about}The accuracy on {gold_rows:,} gold rows is {share_text(round(accuracy * gold_rows), gold_rows)}."
    confidences: Sequence[int] = facts.get("confidences") or ()
    low = rows_below(confidences, UNCERTAIN)
    if sum(confidences) >= _MIN_ROWS and low >= MANY_UNCERTAIN * sum(confidences):
        yield f"{about}{share_text(low, sum(confidences))} of the rows have a confidence below {UNCERTAIN}."
    labels = facts.get("labels") or {}
    answered = sum(labels.values())
    if answered >= _MIN_ROWS and max(labels.values()) >= SAME_LABEL * answered:
        most = max(labels, key=lambda label: int(labels[label]))
        yield f"{about}{share_text(labels[most], answered)} of the labels are {most}."


def answer_sentences(facts: Mapping[str, Any], rows: int, *, name: str, labels: frozenset[str]) -> Iterator[str]:
    """Sentences about the answers to a question: accuracy, rows of a higher level, rows without a label, confidence.

    `rows` are all rows of the output and `labels` the names of the question's labels.
    """
    about = f"{name}: " if name else ""
    if name and facts.get("accuracy") is not None:
        yield f"{about}accuracy on {counted(facts['gold_rows'], 'gold row')} {percent_text(facts['accuracy'])}."
    above = sum(count for label, count in (facts.get("labels") or {}).items() if label not in labels) if labels else 0
    if above:
        yield f"{about}{share_text(above, rows)} of the rows have a level above the labels as their label."
    abstained = int(facts.get("abstained") or 0)
    if abstained and abstained < MANY_ABSTAINED * rows:
        none_label = int((facts.get("abstained_by") or {}).get("none_label", 0))
        yield f"{about}{share_text(abstained, rows)} of the rows have no label: {_why(abstained, none_label)}."


def confidence_sentence(facts: Mapping[str, Any]) -> str:
    """How sure the answers are, "" if it is not known."""
    confidences: Sequence[int] = facts.get("confidences") or ()
    mean = facts.get("mean_confidence")
    if mean is None:
        return ""
    if not sum(confidences):
        return f"The mean is {mean:.2f}."
    low, total = rows_below(confidences, 0.6), sum(confidences)
    below = f"{counted(low, 'row')} ({share_text(low, total)}) {'is' if low == 1 else 'are'}" if low else "no row is"
    return f"The mean is {mean:.2f}; {below} below 0.60."


def rows_below(confidences: Sequence[int], border: float) -> int:
    """The rows with a confidence below `border`, which is one of the borders of the ranges."""
    return sum(confidences[: round(border * len(confidences))])


def label_chart(facts: Mapping[str, Any], rows: int, errors: int, *, name: str) -> BarChart | None:
    """The rows of every label, those without a label and those with an error; they add up to all rows."""
    labels = [(clip(label, LONGEST_NAME), int(count)) for label, count in (facts.get("labels") or {}).items()]
    abstained = int(facts.get("abstained") or 0)
    if not labels and not abstained:
        return None
    labels.sort(key=lambda each: -each[1])
    shown, rest = labels[:MOST_BARS], labels[MOST_BARS:]
    kinds: list[tuple[str, int, Literal["value", "none", "error"]]] = [
        (label, count, "value") for label, count in shown
    ]
    if rest:
        kinds.append((f"{len(rest):,} other labels", sum(count for _, count in rest), "value"))
    kinds += [("no label", abstained, "none")] if abstained else []
    kinds += [("error", errors, "error")] if errors else []
    return chart_of(f"Labels{f': {clip(name, LONGEST_NAME)}' if name else ''}", kinds, total=rows, head="Label")


def chart_of(
    title: str,
    counts: Sequence[tuple[str, int, Literal["value", "none", "error"]]],
    *,
    total: int,
    head: str,
    note: str = "",
) -> BarChart:
    """A chart of counts, which are shares of `total`."""
    most = max((count for _, count, _ in counts), default=0) or 1
    shares = rounded_shares([count for _, count, _ in counts], total)
    bars = tuple(
        Bar(name=name, count=count, share=share, width=round(100 * count / most, 1), kind=kind)
        for (name, count, kind), share in zip(counts, shares, strict=True)
    )
    return BarChart(title=title, head=head, bars=bars, note=note)


def label_counts(facts: Mapping[str, Any]) -> dict[str, int]:
    """The rows of every label; those of several questions after the name of the question."""
    return {
        clip(f"{name}: {label}" if name else label, 2 * LONGEST_NAME): int(count)
        for name, each in answers_of(facts).items()
        for label, count in (each.get("labels") or {}).items()
    }


def figures_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a manifest, and those of each of several questions after its name."""
    named = {name: facts for name, facts in answers_of(manifest).items() if name}
    return dict(manifest) | {f"{name} {fact}": value for name, facts in named.items() for fact, value in facts.items()}


def _why(abstained: int, by_none: int) -> str:
    if not by_none:
        return "the confidence was too low"
    if by_none == abstained:
        return "the most likely label was the one for none of the others"
    return (
        f"in {abstained - by_none:,} the confidence was too low, in {by_none:,} the most likely label was the "
        "one for none of the others"
    )
