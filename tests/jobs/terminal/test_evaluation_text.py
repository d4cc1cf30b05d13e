"""What `tirazh evaluate` prints."""

from __future__ import annotations

from typing import Any

import numpy as np

from tirazh.jobs.terminal.evaluation_text import MOST_COLUMNS, MOST_LABELS, evaluation_text, table_text
from tirazh.pipeline.evaluation.evaluate import evaluate
from tirazh.pipeline.evaluation.predictions import Predictions


def found(num_labels: int = 2, **values: Any) -> dict[str, Any]:
    """Two rows of each label, of which one is right and the other one is given the next label."""
    gold = np.repeat(np.arange(num_labels), 2)
    chosen = np.where(np.arange(2 * num_labels) % 2, (gold + 1) % num_labels, gold)
    labels = tuple(f"label {number}" for number in range(num_labels))
    made = Predictions(labels=labels, gold=gold, chosen=chosen, confidence=np.full(len(gold), np.nan))
    counts = dict.fromkeys(("errors", "without_gold", "unknown_gold", "repeated_row_keys"), 0)
    counts |= {"rows": len(gold), "unknown_labels": {}, "gold_keys_without_row": 0, "repeated_gold_keys": 0}
    return {"question": None, "gold": {"column": "gold"}, "counts": counts, **evaluate(made).to_dict(), **values}


def test_figures_labels_and_confusions_are_tables() -> None:
    text = evaluation_text(found())
    assert text.startswith("4 of 4 rows evaluated (gold labels: column gold)\n")
    assert "accuracy                   0.5000" in text
    assert "no ECE: no row with a gold label has a confidence" in text
    assert "label 0          2        2      0.500   0.500  0.500" in text
    assert "label 0                    1        1\n" in text


def test_rows_that_were_left_out_are_said() -> None:
    values = found()
    values["counts"] |= {"errors": 3, "unknown_gold": 2, "unknown_labels": {"weather\x1b[31m": 2}, "rows": 9}
    values["counts"] |= {"gold_keys_without_row": 1_200}
    text = evaluation_text(values)
    assert "  3 rows have an error\n" in text
    assert "  2 rows have a gold label that is none of the job's labels: weather\ufffd[31m\n" in text
    assert "  1,200 keys of the gold file are in no row\n" in text


def test_with_many_labels_the_most_frequent_wrong_answers_are_listed() -> None:
    text = evaluation_text(found(MOST_COLUMNS + 1))
    assert "the most frequent wrong answers\ngold label    answer  rows\nlabel 0      label 1     1\n" in text
    many = evaluation_text(found(MOST_LABELS + 5))
    assert "and 5 more labels with fewer gold rows" in many


def test_rows_that_abstained_have_a_column_only_if_there_are_some() -> None:
    assert "(abstained)" not in evaluation_text(found())
    values = found()
    values["confusion"] = [*values["confusion"], ["label 0", None, 7]]
    assert "(abstained)" in evaluation_text(values)


def test_a_comparison_says_the_difference_and_its_test() -> None:
    against = {
        "output": "other",
        "first_accuracy": 0.9,
        "second_accuracy": 0.85,
        "difference": 0.05,
        "interval": [0.01, 0.09],
        "only_first_right": 9,
        "only_second_right": 4,
        "p_value": 0.267,
        "test": "exact",
        "changed": 13,
        "all_rows": 100,
        "rows_only_here": 2,
        "rows_only_there": 0,
    }
    text = evaluation_text(found(against=against))
    assert text.splitlines()[-5:] == [
        "against other",
        "  accuracy 0.9000 here, 0.8500 there: +0.0500 (95 % interval +0.0100 to +0.0900)",
        "  9 rows are right only here, 4 only there: p = 0.27 (exact McNemar test)",
        "  13 of 100 rows have another answer",
        "  2 rows are only here and are not compared",
    ]


def test_cells_of_a_table_are_aligned() -> None:
    assert table_text([("a", "b"), ("long", "1")]) == "a     b\nlong  1"
