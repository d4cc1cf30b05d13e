"""The text of an evaluation: its figures, the figures of each label, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.evaluation.figure_names import FIGURES, GOLD_COUNTS

MOST_LABELS = 40
# More columns do not fit on a screen; then the most frequent confusions are listed.
MOST_COLUMNS = 12
MOST_CONFUSIONS = 10
ABSTAINED = "(abstained)"


def evaluation_text(found: Mapping[str, Any]) -> str:
    """Return what `pipeline/gold/run.py` found as text for a terminal."""
    blocks = [_rows_text(found), _figures_text(found), _classes_text(found["classes"]), _confusion_text(found)]
    if "against" in found:
        blocks.append(_comparison_text(found["against"]))
    return "\n\n".join(blocks)


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rows_text(found: Mapping[str, Any]) -> str:
    counts, gold = found["counts"], found["gold"]
    where = f"column {gold['column']}" if "column" in gold else f"{gold['file']}, by {gold['key']}"
    of = f", question {found['question']}" if found["question"] is not None else ""
    lines = [f"{found['rows']:,} of {counts['rows']:,} rows evaluated{of} (gold labels: {where})"]
    for name, what in GOLD_COUNTS:
        if counts[name]:
            more = f": {', '.join(counts['unknown_labels'])}" if name == "unknown_gold" else ""
            lines.append(f"  {counts[name]:,} rows {what}{more}")
    if counts["gold_keys_without_row"]:
        lines.append(f"  {counts['gold_keys_without_row']:,} keys of the gold file are in no row")
    if counts["repeated_gold_keys"]:
        lines.append(f"  {counts['repeated_gold_keys']:,} rows of the gold file repeat a key and its label")
    return _printable("\n".join(lines))


def _figures_text(found: Mapping[str, Any]) -> str:
    rows = [("", "value", "95 % interval")]
    for name, (_, shown) in FIGURES.items():
        if found[name] is not None:
            low_high = found["intervals"].get(name)
            interval = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high is not None else ""
            rows.append((shown, f"{found[name]:.4f}", interval))
    missing = [f"no {FIGURES[name][1]}: {why}" for name, why in found["missing"].items()]
    return "\n".join([table_text(rows), *missing])


def _classes_text(classes: Sequence[Mapping[str, Any]]) -> str:
    shown = sorted(classes, key=lambda each: -each["support"])[:MOST_LABELS] if len(classes) > MOST_LABELS else classes
    rows: list[tuple[str, ...]] = [("label", "gold rows", "answers", "precision", "recall", "F1")]
    for each in shown:
        shares = [_share(each[name]) for name in ("precision", "recall", "f1")]
        rows.append((_printable(each["label"]), f"{each['support']:,}", f"{each['predicted']:,}", *shares))
    more = [f"and {len(classes) - MOST_LABELS:,} more labels with fewer gold rows"] if len(shown) < len(classes) else []
    return "\n".join([table_text(rows), *more])


def _confusion_text(found: Mapping[str, Any]) -> str:
    labels, cells = found["labels"], found["confusion"]
    if len(labels) > MOST_COLUMNS:
        wrong = sorted((cell for cell in cells if cell[1] not in (cell[0], None)), key=lambda cell: -cell[2])
        rows = [("gold label", "answer", "rows")]
        rows += [(gold, answer, f"{count:,}") for gold, answer, count in wrong[:MOST_CONFUSIONS]]
        return f"the most frequent wrong answers\n{_printable(table_text(rows))}" if wrong else "no answer is wrong"
    counts = {(gold, answer): rows for gold, answer, rows in cells}
    answers = [*labels, *([None] if any(answer is None for _, answer in counts) else [])]
    table: list[tuple[str, ...]] = [("gold label \\ answer", *(answer or ABSTAINED for answer in answers))]
    table += [(gold, *(f"{counts.get((gold, answer), 0):,}" for answer in answers)) for gold in labels]
    return _printable(table_text(table))


def _comparison_text(found: Mapping[str, Any]) -> str:
    interval = found["interval"]
    test = "exact McNemar test" if found["test"] == "exact" else "McNemar test, chi-square"
    lines = [
        f"against {found['output']}",
        f"  accuracy {found['first_accuracy']:.4f} here, {found['second_accuracy']:.4f} there: "
        f"{found['difference']:+.4f} (95 % interval {interval[0]:+.4f} to {interval[1]:+.4f})",
        f"  {found['only_first_right']:,} rows are right only here, {found['only_second_right']:,} only there: "
        f"p = {found['p_value']:.2g} ({test})",
        f"  {found['changed']:,} of {found['all_rows']:,} rows have another answer",
    ]
    for name, where in (("rows_only_here", "here"), ("rows_only_there", "there")):
        if found[name]:
            lines.append(f"  {found[name]:,} rows are only {where} and are not compared")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _printable(text: str) -> str:
    """The text without control characters of a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
