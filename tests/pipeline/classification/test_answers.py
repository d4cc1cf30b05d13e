"""The columns of answers, from the scores of a part's rows."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tirazh.pipeline import schema
from tirazh.pipeline.classification import answers
from tirazh.pipeline.classification.answers import AnswerLayout, answer_columns
from tirazh.pipeline.classification.priors import make_priors

LABELS = ("sport/football", "sport/hockey", "economics", "none")
PLAIN = AnswerLayout(labels=LABELS)
TONE = AnswerLayout(labels=("good", "bad"), threshold=0.6)


def scored(scores: list[list[float] | None], **columns: Any) -> pa.Table:
    """Rows with scores; a row without has an error."""
    errors = ["the text is empty" if row is None else None for row in scores]
    own = {
        schema.LABEL_LOGPROBS: pa.array(scores, pa.list_(pa.float64())),
        schema.ROW_ERROR: pa.array(errors, pa.string()),
    }
    return pa.table({**columns, **own})


def logs(*shares: float) -> list[float]:
    return [math.log(share) for share in shares]


def rows_of(table: pa.Table, *layouts: AnswerLayout) -> list[dict[str, Any]]:
    """The rows of the answers, each with the names of its columns; those of further questions are numbered."""
    names: list[str] = []
    for number, layout in enumerate(layouts):
        fields = schema.answer_fields(
            as_decision=layout.shape == "decision", multi_label=layout.multi_label is not None
        )
        names += [f"{field.name}{number or ''}" for field in fields]
    columns = answer_columns(table, layouts)
    return pa.table(columns, names=[*names, "error"]).to_pylist()


def entries(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(entry["label"], round(entry["probability"], 6)) for entry in row["probabilities"]]


def test_a_row_with_an_error_has_no_answer() -> None:
    first, second = rows_of(scored([logs(0.1, 0.2, 0.6, 0.1), None]), replace(PLAIN, shape="decision", multi_label=0.2))
    assert (first["choice"], round(first["confidence"], 6), first["abstained"]) == ("economics", 0.6, False)
    assert first["labels"] == ["economics", "sport/hockey"]
    assert second.pop("error") == "the text is empty"
    assert set(second.values()) == {None}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_an_error_of_their_row_alone(score: float) -> None:
    good = [*logs(0.1, 0.2, 0.6, 0.1), *logs(0.3, 0.7)]
    before = rows_of(scored([good, good]), PLAIN, TONE)
    after = rows_of(scored([good, [*good[:5], score], good]), PLAIN, TONE)
    assert after[0] == after[2] == before[0]
    assert after[1].pop("error") == "the scores of the labels are not finite"
    assert set(after[1].values()) == {None}


def test_the_scores_of_several_questions_stand_one_behind_the_other() -> None:
    (row,) = rows_of(scored([[*logs(0.1, 0.2, 0.6, 0.1), *logs(0.45, 0.55)]]), PLAIN, TONE)
    assert (row["label"], row["label1"], round(row["confidence1"], 6)) == ("economics", None, 0.55)


def test_top_keeps_the_most_likely_entries_in_their_order() -> None:
    (row,) = rows_of(scored([logs(0.1, 0.3, 0.3, 0.3)]), replace(PLAIN, top=2))
    assert entries(row) == [("sport/hockey", 0.3), ("economics", 0.3)]
    (row,) = rows_of(scored([logs(0.1, 0.3, 0.3, 0.3)]), replace(PLAIN, top=9))
    assert [label for label, _ in entries(row)] == ["sport/hockey", "economics", "none", "sport/football"]


def test_a_level_above_the_labels_is_the_answer_where_it_reaches_the_threshold() -> None:
    (row,) = rows_of(scored([logs(0.4, 0.35, 0.2, 0.05)]), replace(PLAIN, threshold=0.7, shape="decision"))
    assert (row["choice"], round(row["confidence"], 6), row["abstained"]) == ("sport", 0.75, False)


def test_the_none_label_abstains_and_several_labels_are_compared_with_it_alone() -> None:
    layout = replace(PLAIN, none_label="none", multi_label=0.5, shape="decision")
    (row,) = rows_of(scored([logs(0.1, 0.2, 0.3, 0.4), logs(0.25, 0.3, 0.2, 0.25)][:1]), layout)
    assert (row["choice"], round(row["confidence"], 6), row["abstained"], row["labels"]) == (None, 0.4, True, [])
    (row,) = rows_of(scored([logs(0.25, 0.3, 0.2, 0.25)]), layout)
    assert (row["choice"], row["labels"]) == ("sport/hockey", ["sport/hockey", "sport/football"])


def test_a_layout_is_sent_to_other_processes() -> None:
    layout = replace(PLAIN, threshold=0.7, priors=make_priors("column:shares", LABELS))
    assert layout.levels is not None
    copy = pickle.loads(pickle.dumps(layout))
    shares = [json.dumps(dict.fromkeys(LABELS, 0.25))]
    table = scored([logs(0.4, 0.35, 0.2, 0.05)], shares=shares)
    assert rows_of(table, copy) == rows_of(table, layout)


class Halves:
    """A calibration that gives every label the same probability."""

    label_shares = (0.4, 0.3, 0.2, 0.1)

    def apply(self, logprobs_NL: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(logprobs_NL.shape, 1 / logprobs_NL.shape[1])


def test_a_fitted_calibration_takes_the_place_of_the_softmax_and_the_priors_divide_by_its_shares() -> None:
    calibration = Halves()
    priors = make_priors("balanced", LABELS, source=calibration.label_shares)
    (row,) = rows_of(scored([logs(0.7, 0.1, 0.1, 0.1)]), replace(PLAIN, calibration=calibration, priors=priors))
    weights = [1 / share for share in calibration.label_shares]
    assert [chance for _, chance in entries(row)] == pytest.approx([w / sum(weights) for w in weights], abs=1e-6)


def test_priors_of_each_row_correct_its_probabilities_and_a_bad_value_is_an_error_of_its_row() -> None:
    shares = [{"a": 0.9, "b": 0.1}, {"a": 0.5, "b": 0.6}, None, {"a": 0.0, "b": 1.0}]
    layout = AnswerLayout(labels=("a", "b"), priors=make_priors("column:shares", ("a", "b")))
    found = rows_of(scored([logs(0.4, 0.6)] * 4, shares=shares), layout)
    assert [row["label"] for row in found] == ["a", None, None, "b"]
    assert found[0]["confidence"] == pytest.approx(0.36 / 0.42)
    assert [row["error"] for row in found] == [
        None,
        "column 'shares' has shares that sum to 1.1, not to 1",
        "column 'shares' is null",
        None,
    ]


def test_priors_that_leave_no_label_a_probability_are_an_error_of_the_row() -> None:
    layout = AnswerLayout(labels=("a", "b"), priors=make_priors({"a": 1.0, "b": 0.0}, ("a", "b")))
    first, second = rows_of(scored([[-5_000.0, 0.0], [0.0, 0.0]]), layout)
    assert (first["label"], first["error"]) == (None, "the priors leave no label a probability")
    assert (second["label"], second["confidence"]) == ("a", 1.0)


scores = st.one_of(
    st.none(),
    st.lists(st.sampled_from([-9.0, -2.5, -1.0, 0.0, math.nan]) | st.floats(-50, 50), min_size=6, max_size=6),
)
layouts = st.builds(
    lambda threshold, none_label, shape, multi_label, top: (
        replace(PLAIN, threshold=threshold, none_label=none_label, shape=shape, multi_label=multi_label, top=top),
        replace(TONE, shape=shape, multi_label=multi_label, top=top),
    ),
    st.sampled_from([0.0, 0.4, 0.8]),
    st.sampled_from([None, "none"]),
    st.sampled_from(["plain", "decision"]),
    st.sampled_from([None, 0.0, 0.3]),
    st.sampled_from([None, 1, 3, 9]),
)


@given(st.lists(scores, min_size=1, max_size=8), layouts, st.data())
def test_the_same_rows_get_the_same_answers_however_they_are_cut(
    rows: list[list[float] | None], asked: tuple[AnswerLayout, ...], data: st.DataObject
) -> None:
    whole = answer_columns(scored(rows), asked)
    cut = data.draw(st.integers(0, len(rows)))
    pieces = [answer_columns(scored(piece), asked) for piece in (rows[:cut], rows[cut:]) if piece]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "_CHUNK_ENTRIES", 12)
        pieces_of_two = answer_columns(scored(rows), asked)
    for index, column in enumerate(whole):
        assert pa.chunked_array([chunk for piece in pieces for chunk in piece[index].chunks]).equals(column)
        assert pieces_of_two[index].equals(column)


@given(st.lists(scores, min_size=1, max_size=8), layouts)
def test_what_is_written_of_a_row_agrees_with_itself(
    rows: list[list[float] | None], asked: tuple[AnswerLayout, ...]
) -> None:
    layout = asked[0]
    name = "choice" if layout.shape == "decision" else "label"
    for row, given_scores in zip(rows_of(scored(rows), *asked), rows, strict=True):
        if given_scores is None or not np.isfinite(given_scores).all():
            assert row.pop("error") is not None
            assert set(row.values()) == {None}
            continue
        found = [(entry["label"], entry["probability"]) for entry in row["probabilities"]]
        assert len(found) == min(layout.top or len(LABELS), len(LABELS))
        if layout.top is None:
            assert [label for label, _ in found] == list(LABELS)
            assert sum(chance for _, chance in found) == pytest.approx(1, abs=1e-6)
        else:
            assert found == sorted(found, key=lambda entry: (-entry[1], LABELS.index(entry[0])))
        best = max(found, key=lambda entry: entry[1])
        if row[name] in LABELS:
            assert (row[name], row["confidence"]) == best
            assert row["confidence"] >= np.float32(layout.threshold)
        elif row[name] is None:
            assert row["confidence"] == best[1]
        else:
            assert row[name] == "sport"
            assert best[1] < row["confidence"] <= 1
        if layout.shape == "decision":
            assert row["abstained"] is (row[name] is None)
        if layout.multi_label is not None and layout.top is None:
            chance_of = dict(found)
            by_chance = sorted(row["labels"], key=lambda label: (-chance_of[label], LABELS.index(label)))
            assert row["labels"] == by_chance
            assert layout.none_label not in row["labels"]
