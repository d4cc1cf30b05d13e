"""What the report and the dataset card show of an evaluation against gold labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tirazh.pipeline.evaluation.confusion import cells_of, class_table, macro_f1, matrix_of_cells
from tirazh.pipeline.evaluation.figure_names import FIGURES, GOLD_COUNTS
from tirazh.pipeline.report.answers import LONGEST_NAME, answers_of
from tirazh.pipeline.report.charts import SIZE, Chart
from tirazh.pipeline.report.words import clip, percent_text

MOST_LABELS = 50
MOST_COLUMNS = 25
MOST_CONFUSIONS = 20
_ABSTAINED = "(abstained)"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSection:
    """One evaluation on a page.

    `figures` are (name, value, interval), `classes` the cells of the rows of the table of labels. `matrix` has rows of
    a gold label and (rows, shade from 0 to 1) for each of `answers`; with many labels it is empty and `confusions` are
    the most frequent (gold label, answer, rows). `charts` are those of accuracy by confidence and of error by coverage;
    none without confidences.
    """

    title: str
    sentences: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]
    classes: tuple[tuple[str, ...], ...]
    answers: tuple[str, ...] = ()
    matrix: tuple[tuple[str, tuple[tuple[int, float], ...]], ...] = ()
    confusions: tuple[tuple[str, str, int], ...] = ()
    charts: tuple[Chart, ...] = ()

    @property
    def has_intervals(self) -> bool:
        """Whether any figure has an interval."""
        return any(interval for _, _, interval in self.figures)


def sections_of(manifest: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> tuple[EvaluationSection, ...]:
    """The evaluations of an output; without one the figures that follow from the manifest of a job with a gold column.

    Evaluations of rows that were made again since, and values that are no evaluation, are left out.
    """
    now = rows_id(manifest)
    known = [each for each in evaluations if each.get("rows_id") == now]
    try:
        return tuple(_section(each) for each in (known or evaluations_of_manifest(manifest)))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def rows_id(manifest: Mapping[str, Any]) -> str:
    """An id of the rows of a finished output, from the checksums of its parts."""
    parts = [[part["name"], part.get("sha256")] for part in manifest.get("parts") or []]
    return hashlib.sha256(json.dumps([manifest["plan_id"], parts]).encode()).hexdigest()[:32]


def evaluations_of_manifest(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that follow from the label counts of a finished job alone, for each question with gold labels.

    They are those of `tirazh evaluate` that need no confidences.
    """
    found = []
    for name, facts in answers_of(manifest).items():
        asked = manifest["spec"]["questions"][name] if name else manifest["spec"]
        made = _evaluation_of(manifest, facts, asked, list(asked.get("labels") or {}))
        if made is not None:
            found.append(made | {"question": name or None})
    return found


def _evaluation_of(
    manifest: Mapping[str, Any], facts: Mapping[str, Any], asked: Mapping[str, Any], labels: list[str]
) -> dict[str, Any] | None:
    cells = facts.get("confusion") or []
    matrix, unknown = matrix_of_cells(labels, [(gold, label, rows) for gold, label, rows in cells])
    rows, right = int(matrix.sum()), int(matrix.diagonal().sum())
    if not rows:
        return None
    answered = int(matrix[:, :-1].sum())
    of_all = int(manifest["rows"]) - int(manifest["errors"]) - rows - unknown
    return {
        "question": None,
        "gold": {"column": asked.get("gold_column")},
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
    answers = [*labels, None] if any(answer is None for _, answer, _ in cells) else labels
    wrong = sorted((cell for cell in cells if cell[1] not in (cell[0], None)), key=lambda cell: -cell[2])
    shown_wrong = [(clip(gold, LONGEST_NAME), clip(answer, LONGEST_NAME), rows) for gold, answer, rows in wrong]
    charts = (_reliability_chart(values["reliability"]), _coverage_chart(values["curve"]))
    return EvaluationSection(
        title="Evaluation" if question is None else f"Evaluation of {clip(question, LONGEST_NAME)}",
        sentences=tuple(_sentences(values)),
        figures=tuple(_figures(values)),
        classes=tuple(_classes(values["classes"])),
        answers=tuple(_name(each) for each in answers) if has_matrix else (),
        matrix=tuple(_matrix(labels, answers, cells)) if has_matrix else (),
        confusions=() if has_matrix else tuple(shown_wrong[:MOST_CONFUSIONS]),
        charts=tuple(each for each in charts if each is not None),
    )


def _name(answer: str | None) -> str:
    return _ABSTAINED if answer is None else clip(answer, LONGEST_NAME)


def _sentences(values: Mapping[str, Any]) -> list[str]:
    counts, gold = values["counts"], values["gold"]
    source = f"the column {gold['column']}" if gold.get("column") else f"{gold['file']}, found by {gold['key']}"
    said = [f"{values['rows']:,} rows are compared with their gold labels (from {source})."]
    named = [f"{counts[name]:,} {what}" for name, what in GOLD_COUNTS if counts.get(name)]
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
    for name, (shown, _) in FIGURES.items():
        if values.get(name) is not None:
            low_high = values["intervals"].get(name)
            interval = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else ""
            found.append((shown, f"{values[name]:.4f}", interval))
    return found


def _classes(classes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    shown = sorted(classes, key=lambda each: -each["support"])[:MOST_LABELS] if len(classes) > MOST_LABELS else classes
    return [
        (
            clip(each["label"], LONGEST_NAME),
            f"{each['support']:,}",
            f"{each['predicted']:,}",
            *("" if each[name] is None else f"{each[name]:.3f}" for name in ("precision", "recall", "f1")),
        )
        for each in shown
    ]


def _matrix(
    labels: Sequence[str], answers: Sequence[str | None], cells: Sequence[tuple[str, str | None, int]]
) -> list[tuple[str, tuple[tuple[int, float], ...]]]:
    """The rows of every gold label, each cell shaded by its share of them."""
    counts = {(gold, answer): int(rows) for gold, answer, rows in cells}
    found = []
    for gold in labels:
        row = [counts.get((gold, answer), 0) for answer in answers]
        total = sum(row) or 1
        found.append((clip(gold, LONGEST_NAME), tuple((rows, round(rows / total, 3)) for rows in row)))
    return found


def _reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The share of right answers in every range of confidence; None without confidences."""
    width = SIZE / max(1, len(bins))
    bars = tuple(
        (
            round(index * width + 0.3, 2),
            round(SIZE * (1 - each["accuracy"]), 2),
            round(width - 0.6, 2),
            round(SIZE * each["accuracy"], 2),
            f"{index / len(bins):.2f} to {(index + 1) / len(bins):.2f}: {percent_text(each['accuracy'])}",
        )
        for index, each in enumerate(bins)
        if each["accuracy"] is not None
    )
    if not bars:
        return None
    return Chart(
        title="Accuracy by confidence",
        unit="right answers",
        axis="confidence",
        ticks=("0", "0.5", "1"),
        top="100 %",
        bars=bars,
        guide=f"M0 {SIZE:g} L{SIZE:g} 0",
        caption="Share of right answers by confidence. On the dashed line they are equal.",
    )


def _coverage_chart(curve: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The share of wrong answers among the most confident rows; None without confidences."""
    if not curve:
        return None
    most = max([0.1, *(point["error"] for point in curve)])
    points = [f"{SIZE * point['coverage']:.1f} {SIZE * (1 - point['error'] / most):.1f}" for point in curve]
    return Chart(
        title="Error by coverage",
        unit="wrong answers",
        axis="coverage",
        ticks=("0 %", "50 %", "100 %"),
        top=f"{most:.0%}".replace("%", " %"),
        line="M" + " L".join(points),
        guide=f"M0 {SIZE * (1 - 0.05 / most):.1f} H{SIZE:g}",
        caption="Share of wrong answers among the most confident rows. The dashed line is at 5 %.",
    )
