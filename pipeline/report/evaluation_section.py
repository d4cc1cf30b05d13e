"""What the report and the dataset card show of an evaluation against gold labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tirazh.pipeline.evaluation.confusion import cells_of, class_table, macro_f1, matrix_of_cells

MOST_LABELS = 50
MOST_COLUMNS = 25
MOST_CONFUSIONS = 20
_ABSTAINED = "(abstained)"
_FIGURES = (
    ("accuracy", "accuracy of the answers"),
    ("coverage", "share of rows with an answer"),
    ("accuracy_abstained_wrong", "accuracy, abstained rows wrong"),
    ("first_level_accuracy", "accuracy of the first level"),
    ("macro_f1", "macro-F1"),
    ("ece", "expected calibration error (ECE)"),
    ("brier", "Brier score"),
    ("log_loss", "log-loss"),
    ("coverage_at_5_percent", "coverage at 5 % error"),
    ("coverage_at_1_percent", "coverage at 1 % error"),
)
# Of the diagrams, in pixels.
SIDE = 220.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSection:
    """One evaluation on a page.

    `figures` are (name, value, interval), `classes` the cells of the rows of the table of labels. `matrix` has rows of
    a gold label and (rows, shade from 0 to 1) for each of `answers`; with many labels it is empty and `confusions` are
    the most frequent (gold label, answer, rows). `bars` are (x, y, width, height) of the reliability diagram, `curve`
    the points of the error by coverage, whose axis ends at `most_error`; both are empty without confidences.
    """

    title: str
    sentences: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]
    classes: tuple[tuple[str, ...], ...]
    answers: tuple[str, ...] = ()
    matrix: tuple[tuple[str, tuple[tuple[int, float], ...]], ...] = ()
    confusions: tuple[tuple[str, str, int], ...] = ()
    bars: tuple[tuple[float, float, float, float], ...] = ()
    curve: str = ""
    most_error: float = 0.0


def sections_of(manifest: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> tuple[EvaluationSection, ...]:
    """The evaluations of an output; without one the figures that follow from the manifest of a job with a gold column.

    Evaluations of rows that were made again since, and values that are no evaluation, are left out.
    """
    now = rows_id(manifest)
    known = [each for each in evaluations if each.get("rows_id") == now]
    own = evaluation_of_manifest(manifest) if not known else None
    try:
        return tuple(_section(each) for each in (known or ([own] if own is not None else [])))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def rows_id(manifest: Mapping[str, Any]) -> str:
    """An id of the rows of a finished output, from the checksums of its parts."""
    parts = [[part["name"], part.get("sha256")] for part in manifest.get("parts") or []]
    return hashlib.sha256(json.dumps([manifest["plan_id"], parts]).encode()).hexdigest()[:32]


def evaluation_of_manifest(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures that follow from the label counts of a finished job alone; None without gold labels.

    They are those of `tirazh evaluate` that need no confidences.
    """
    labels, cells = list(manifest["spec"].get("labels") or {}), manifest.get("confusion") or []
    matrix, unknown = matrix_of_cells(labels, [(gold, label, rows) for gold, label, rows in cells])
    rows, right = int(matrix.sum()), int(matrix.diagonal().sum())
    if not rows:
        return None
    answered = int(matrix[:, :-1].sum())
    of_all = int(manifest["rows"]) - int(manifest["errors"]) - rows - unknown
    return {
        "question": None,
        "gold": {"column": manifest["spec"].get("gold_column")},
        "counts": {"errors": manifest["errors"], "without_gold": of_all, "unknown_gold": unknown},
        "rows": rows,
        "coverage": answered / rows,
        "accuracy": right / answered if answered else None,
        "accuracy_abstained_wrong": right / rows,
        "macro_f1": macro_f1(matrix),
        "intervals": {},
        "missing": {},
        "labels": labels,
        "classes": [asdict(each) for each in class_table(labels, matrix)],
        "confusion": cells_of(labels, matrix),
        "reliability": [],
        "curve": [],
    }


def markdown_of(section: EvaluationSection) -> list[str]:
    """The section of a dataset card: paragraphs and tables."""
    figures = ["| figure | value | 95 % interval |", "|---|---:|---:|"]
    figures += [f"| {name} | {value} | {interval} |" for name, value, interval in section.figures]
    classes = ["| label | gold rows | answers | precision | recall | F1 |", "|---|---:|---:|---:|---:|---:|"]
    classes += [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in section.classes]
    return [f"## {section.title}", " ".join(section.sentences), "\n".join(figures), "\n".join(classes)]


def _section(values: Mapping[str, Any]) -> EvaluationSection:
    question = values.get("question")
    labels, cells = values["labels"], values["confusion"]
    has_matrix = len(labels) <= MOST_COLUMNS
    wrong = sorted((cell for cell in cells if cell[1] not in (cell[0], None)), key=lambda cell: -cell[2])
    most_error = max([0.1, *(point["error"] for point in values["curve"])])
    return EvaluationSection(
        title="Evaluation" if question is None else f"Evaluation of {question}",
        sentences=tuple(_sentences(values)),
        figures=tuple(_figures(values)),
        classes=tuple(_classes(values["classes"])),
        answers=(*labels, _ABSTAINED) if has_matrix else (),
        matrix=tuple(_matrix(labels, cells)) if has_matrix else (),
        confusions=() if has_matrix else tuple((gold, answer, rows) for gold, answer, rows in wrong[:MOST_CONFUSIONS]),
        bars=tuple(_bars(values["reliability"])),
        curve=" ".join(
            f"{SIDE * point['coverage']:.1f},{SIDE * (1 - point['error'] / most_error):.1f}"
            for point in values["curve"]
        ),
        most_error=most_error,
    )


def _sentences(values: Mapping[str, Any]) -> list[str]:
    counts, gold = values["counts"], values["gold"]
    source = f"the column {gold['column']}" if gold.get("column") else f"{gold['file']}, found by {gold['key']}"
    said = [f"{values['rows']:,} rows are compared with their gold labels (from {source})."]
    left = (
        ("errors", "have an error"),
        ("without_gold", "have no gold label"),
        ("unknown_gold", "have a gold label that is none of the job's labels"),
    )
    named = [f"{counts[name]:,} {what}" for name, what in left if counts.get(name)]
    if named:
        said.append(f"Other rows are left out: {', '.join(named)}.")
    other = values.get("against")
    if other:
        low, high = other["interval"]
        said.append(
            f"Against {other['output']} the accuracy is {other['first_accuracy']:.3f} instead of "
            f"{other['second_accuracy']:.3f}, a difference of {other['difference']:+.3f} (95 % interval {low:+.3f} to "
            f"{high:+.3f}, McNemar's test p = {other['p_value']:.2g}); {other['changed']:,} answers differ."
        )
    return said


def _figures(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    for name, shown in _FIGURES:
        if values.get(name) is not None:
            low_high = values["intervals"].get(name)
            interval = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else ""
            found.append((shown, f"{values[name]:.4f}", interval))
    return found


def _classes(classes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    shown = sorted(classes, key=lambda each: -each["support"])[:MOST_LABELS] if len(classes) > MOST_LABELS else classes
    return [
        (
            str(each["label"]),
            f"{each['support']:,}",
            f"{each['predicted']:,}",
            *("" if each[name] is None else f"{each[name]:.3f}" for name in ("precision", "recall", "f1")),
        )
        for each in shown
    ]


def _matrix(
    labels: Sequence[str], cells: Sequence[tuple[str, str | None, int]]
) -> list[tuple[str, tuple[tuple[int, float], ...]]]:
    """The rows of every gold label, each cell shaded by its share of them."""
    counts = {(gold, answer): int(rows) for gold, answer, rows in cells}
    found = []
    for gold in labels:
        row = [counts.get((gold, answer), 0) for answer in [*labels, None]]
        total = sum(row) or 1
        found.append((str(gold), tuple((rows, round(rows / total, 3)) for rows in row)))
    return found


def _bars(bins: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float, float]]:
    width = SIDE / max(1, len(bins))
    return [
        (
            round(index * width, 1),
            round(SIDE * (1 - each["accuracy"]), 1),
            round(width - 1, 1),
            round(SIDE * each["accuracy"], 1),
        )
        for index, each in enumerate(bins)
        if each["accuracy"] is not None
    ]
