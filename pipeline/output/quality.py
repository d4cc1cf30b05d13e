"""Quality figures of a job, computed from its receipts.

Labels, confidence, accuracy and macro-F1; how completions ended and how long they are; errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.output.receipt import Receipt

# Every name that `quality` may return.
QUALITY_FACTS = (
    *("error_kinds", "abstained", "labels", "mean_confidence"),
    *("gold_rows", "accuracy", "macro_f1", "confusion", "finish_reasons", "completion_lengths"),
)
MOST_CELLS = 10_000


def quality(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Compute label counts and mean confidence and, with gold labels, accuracy and macro-F1.

    Rows with an error are not counted; a row with a null label (abstained) counts as wrong. Of generate
    count the finish reasons and the lengths of completions.
    """
    labels: Counter[str] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for receipt in receipts:
        labels.update(receipt.labels)
        kinds.update(receipt.error_kinds)
        reasons.update(receipt.finish_reasons)
        lengths.update(receipt.completion_lengths)
        cells.update({(gold, label): count for gold, label, count in receipt.confusion})
    facts: dict[str, Any] = {"error_kinds": dict(kinds.most_common(10))} if kinds else {}
    if reasons:
        ordered = sorted(lengths.items(), key=lambda item: int(item[0].split("-")[0]))
        facts |= {"finish_reasons": dict(reasons.most_common()), "completion_lengths": dict(ordered)}
    if labels:
        answered = sum(labels.values())
        confidence = sum(receipt.confidence_sum for receipt in receipts) / answered
        # Receipts count rows that abstained under the empty label.
        facts |= {"abstained": labels.pop("", 0), "labels": dict(labels.most_common()), "mean_confidence": confidence}
    if cells:
        right = sum(count for (gold, label), count in cells.items() if gold == label)
        facts |= {"gold_rows": cells.total(), "accuracy": right / cells.total(), "macro_f1": _macro_f1(cells)}
        # For the report. With thousands of labels the manifest would grow too large.
        if len(cells) <= MOST_CELLS:
            facts["confusion"] = [[gold, label or None, count] for (gold, label), count in sorted(cells.items())]
    return facts


def _macro_f1(cells: Mapping[tuple[str, str], int]) -> float:
    golds, labels = Counter[str](), Counter[str]()
    for (gold, label), count in cells.items():
        golds[gold] += count
        labels[label] += count
    # F1 per gold label. A label that is predicted but never a gold label has no F1 of its own; it
    # lowers those of the gold labels.
    scores = [2 * cells.get((gold, gold), 0) / (golds[gold] + labels[gold]) for gold in golds]
    return sum(scores) / len(scores)
