"""Quality figures of a job, computed from its receipts.

Labels, confidence, accuracy and macro-F1; how completions ended and how long they are; errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.classification.answer_counts import AnswerCounts
from tirazh.pipeline.output.receipt import Receipt

# Every name that `quality` may return.
QUALITY_FACTS = (
    *("error_kinds", "abstained", "abstained_by", "labels", "mean_confidence", "confidences", "questions"),
    *("gold_rows", "accuracy", "macro_f1", "confusion", "finish_reasons", "completion_lengths"),
)
MOST_CELLS = 10_000


def quality(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Compute label counts and mean confidence and, with gold labels, accuracy and macro-F1; of several questions for
    each, as `questions`.

    Rows with an error are not counted; a row that abstained counts as wrong, unless the none label is its gold label
    and its most likely one. Of generate count the finish reasons and the lengths of completions.
    """
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for receipt in receipts:
        kinds.update(receipt.error_kinds)
        reasons.update(receipt.finish_reasons)
        lengths.update(receipt.completion_lengths)
    facts: dict[str, Any] = {"error_kinds": dict(kinds.most_common(10))} if kinds else {}
    if reasons:
        ordered = sorted(lengths.items(), key=lambda item: int(item[0].split("-")[0]))
        facts |= {"finish_reasons": dict(reasons.most_common()), "completion_lengths": dict(ordered)}
    names = dict.fromkeys(name for receipt in receipts for name in receipt.answers)
    asked = {
        name: _answers([receipt.answers[name] for receipt in receipts if name in receipt.answers]) for name in names
    }
    facts |= asked.pop("", {})
    return facts | ({"questions": asked} if asked else {})


def _answers(counts: Sequence[AnswerCounts]) -> dict[str, Any]:
    """The figures of one question."""
    labels: Counter[str] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    for each in counts:
        labels.update(each.labels)
        cells.update({(gold, label): count for gold, label, count in each.confusion})
    facts: dict[str, Any] = {}
    if labels:
        mean = sum(each.confidence_sum for each in counts) / labels.total()
        # Receipts count rows that abstained under the empty label.
        abstained = labels.pop("", 0)
        facts = {"abstained": abstained, "labels": dict(labels.most_common()), "mean_confidence": mean}
        facts |= _spread(abstained, counts)
    if cells:
        right = sum(count for (gold, label), count in cells.items() if gold == label)
        facts |= {"gold_rows": cells.total(), "accuracy": right / cells.total(), "macro_f1": _macro_f1(cells)}
        # For the report. With thousands of labels the manifest would grow too large.
        if len(cells) <= MOST_CELLS:
            facts["confusion"] = [[gold, label or None, count] for (gold, label), count in sorted(cells.items())]
    return facts


def _spread(abstained: int, counts: Sequence[AnswerCounts]) -> dict[str, Any]:
    """Why rows abstained, and how many rows have which confidence; nothing with a receipt of an earlier version."""
    histograms = [each.confidences for each in counts if each.confidences is not None]
    if len(histograms) < len(counts):
        return {}
    none_label = sum(each.none_label for each in counts)
    reasons = {"threshold": abstained - none_label, "none_label": none_label}
    return {"confidences": [sum(rows) for rows in zip(*histograms, strict=True)]} | (
        {"abstained_by": reasons} if abstained else {}
    )


def _macro_f1(cells: Mapping[tuple[str, str], int]) -> float:
    golds, labels = Counter[str](), Counter[str]()
    for (gold, label), count in cells.items():
        golds[gold] += count
        labels[label] += count
    # F1 per gold label. A label that is predicted but never a gold label has no F1 of its own; it
    # lowers those of the gold labels.
    scores = [2 * cells.get((gold, gold), 0) / (golds[gold] + labels[gold]) for gold in golds]
    return sum(scores) / len(scores)
