"""The evaluation in the report and in the dataset card."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.pipeline.evaluation.rows import random_predictions
from tests.pipeline.report.test_content import SPEC, manifest
from tirazh.pipeline.evaluation.evaluate import evaluate
from tirazh.pipeline.evaluation.predictions import Predictions
from tirazh.pipeline.report.card import render_card
from tirazh.pipeline.report.evaluation_section import (
    MOST_COLUMNS,
    MOST_CONFUSIONS,
    EvaluationSection,
    evaluations_of_manifest,
    rows_id,
    sections_of,
)
from tirazh.pipeline.report.page import render

MANIFEST = manifest(kind="classify", spec={**SPEC, "labels": {"a": "a", "b": "b"}, "gold_column": "gold"})


def evaluation(num_labels: int = 3, **values: Any) -> dict[str, Any]:
    found = evaluate(random_predictions(400, num_labels, seed=1, abstain_below=0.5), resamples=50)
    more = {"rows_id": rows_id(MANIFEST), "question": None, "gold": {"column": "gold"}, "counts": {}}
    return {**more, **found.to_dict(), **values}


def section(values: dict[str, Any]) -> EvaluationSection:
    (found,) = sections_of(MANIFEST, [values])
    return found


def test_the_figures_have_their_intervals() -> None:
    values = evaluation()
    shown = {name: (value, interval) for name, value, interval in section(values).figures}
    low, high = values["intervals"]["macro_f1"]
    assert shown["macro-F1"] == (f"{values['macro_f1']:.4f}", f"{low:.3f} to {high:.3f}")
    assert shown["coverage at 1 % error"][1] == ""


def test_the_cells_of_a_matrix_are_shaded_by_their_share_of_the_gold_label() -> None:
    values = evaluation(confusion=[["label 0", "label 0", 3], ["label 0", None, 1]])
    (gold, cells), (_, empty), _ = section(values).matrix
    assert gold == "label 0"
    assert cells == ((3, 0.75), (0, 0.0), (0, 0.0), (1, 0.25))
    assert {shade for _, shade in empty} == {0.0}


def test_with_many_labels_the_most_frequent_wrong_answers_are_listed() -> None:
    found = section(evaluation(MOST_COLUMNS + 1))
    assert found.matrix == ()
    assert 0 < len(found.confusions) <= MOST_CONFUSIONS
    assert all(gold != answer for gold, answer, _ in found.confusions)
    counts = [rows for _, _, rows in found.confusions]
    assert counts == sorted(counts, reverse=True)


def test_the_diagrams_stay_in_their_frames() -> None:
    found = section(evaluation())
    reliability, coverage = found.charts
    for x, y, width, height, _ in reliability.bars:
        assert 0 <= x <= 100 - width
        assert abs(y + height - 100) < 0.2
    points = [tuple(map(float, point.split())) for point in coverage.line.removeprefix("M").split(" L")]
    assert all(0 <= value <= 100 for point in points for value in point)
    assert points[-1][0] == 100


def test_names_on_the_page_are_escaped() -> None:
    made = random_predictions(50, 2, seed=2)
    labels = ("<b>bold</b>", "a|b")
    found = evaluate(
        Predictions(labels=labels, gold=made.gold, chosen=made.chosen, confidence=made.confidence), resamples=0
    )
    values = evaluation() | found.to_dict()
    page = render(MANIFEST, evaluations=[values])
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "| a/b | " in render_card(MANIFEST, None, evaluations=[values])


def test_evaluations_of_other_rows_and_damaged_ones_are_left_out() -> None:
    assert sections_of(MANIFEST, [evaluation(rows_id="other")]) == ()
    assert sections_of(MANIFEST, [{"rows_id": rows_id(MANIFEST)}]) == ()
    assert "<h2>Evaluation</h2>" not in render(MANIFEST, evaluations=[{"rows_id": rows_id(MANIFEST)}])


def test_a_comparison_is_one_sentence() -> None:
    against = {
        "output": "yesterday",
        "first_accuracy": 0.9,
        "second_accuracy": 0.85,
        "difference": 0.05,
        "interval": [0.01, 0.09],
        "p_value": 0.02,
        "changed": 13,
    }
    assert section(evaluation(against=against)).sentences[-1] == (
        "Against yesterday the accuracy is 0.900 instead of 0.850, a difference of +0.050 (95 % interval +0.010 to "
        "+0.090, McNemar's test p = 0.02); 13 answers differ."
    )


def test_a_manifest_with_confusions_gives_the_figures_that_need_no_confidence() -> None:
    cells = [["a", "a", 6], ["a", None, 2], ["b", "a", 1], ["b", "b", 3], ["weather", "a", 4]]
    cells_of_job = {"labels": {"a": 11, "b": 3}, "confusion": cells}
    (values,) = evaluations_of_manifest({**MANIFEST, "rows": 20, "errors": 1, **cells_of_job})
    made = Predictions(
        labels=("a", "b"),
        gold=np.repeat([0, 0, 1, 1], [6, 2, 1, 3]),
        chosen=np.repeat([0, -1, 0, 1], [6, 2, 1, 3]),
        confidence=np.full(12, np.nan),
    )
    expected = evaluate(made, resamples=0).to_dict()
    for name in ("rows", "accuracy", "coverage", "accuracy_abstained_wrong", "macro_f1", "classes"):
        assert values[name] == expected[name], name
    assert values["counts"] == {"errors": 1, "without_gold": 3, "unknown_gold": 4}
    page = render({**MANIFEST, "rows": 20, "errors": 1, **cells_of_job})
    assert "<h2>Evaluation</h2>" in page
    assert "<svg" not in page
