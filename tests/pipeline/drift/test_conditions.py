"""The conditions of --fail-on: their grammar, and when they hold."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError
from tirazh.pipeline.drift.conditions import NAMES, Condition, check_baselines, evaluate, parse_conditions


def figure(name: str, value: float | None, baseline: float | None, unit: str = "share", question: str = "") -> Any:
    return {"name": name, "question": question, "unit": unit, "value": value, "baseline": baseline}


LABELS = {"corrected_psi": 0.15, "reading": "moderate", "is_tested": True, "finding": "changed"}
VALUES: dict[str, Any] = {
    "output": {"rows": 350, "questions": {"": {}}},
    "changes": ["labels", "errors"],
    "figures": [
        figure("rows", 350.0, 200.0, "count"),
        figure("errors", 0.06, 0.04),
        figure("abstained", 0.1, 0.0),
        figure("accuracy", 0.8, 0.9),
        figure("macro_f1", None, 0.9, "number"),
        figure("seconds", 30.0, 60.0, "seconds"),
    ],
    "questions": {"": {"labels": LABELS}},
    "changed_rows": [{"question": "", "share": 0.2, "shared_rows": 100, "baseline": "last"}],
}


def holds(text: str, values: dict[str, Any] = VALUES) -> bool:
    (outcome,) = evaluate(parse_conditions(text), values)
    return outcome.holds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels>0.1", True),
        ("labels>0.2", False),
        ("drift", True),
        ("drift>2", False),
        ("errors>0.05", True),
        ("errors>5%", True),
        ("errors>7%", False),
        ("errors>+0.01", True),
        ("errors>+0.03", False),
        ("errors>+40%", True),
        ("errors>+60%", False),
        ("accuracy<-0.05", True),
        ("accuracy<-0.2", False),
        ("accuracy<0.85", True),
        ("accuracy < −0.05", True),
        ("rows±50%", True),
        ("rows+-50%", True),
        ("rows±80%", False),
        ("rows±100", True),
        ("rows<400", True),
        ("rows<-10%", False),
        ("rows>+70%", True),
        ("seconds±40%", True),
        ("abstained>+1%", True),
        ("changed>10%", True),
        ("changed>0.3", False),
        ("macro-f1<0.5, errors>0.05", None),
    ],
)
def test_a_condition_holds_or_not(text: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(
            RequestError, match=r"macro-f1<0\.5: it needs gold labels .*; these conditions hold: errors"
        ):
            evaluate(parse_conditions(text), VALUES)
    else:
        assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label>0.1", "there is no figure 'label'; did you mean labels?"),
        ("accuracyy<-0.1", "there is no figure 'accuracyy'; did you mean accuracy?"),
        ("frequency>1", "there is no figure 'frequency'; the names are labels, drift"),
        ("errors", "'errors' has no value; write NAME>VALUE"),
        ("errors=0.1", "'errors=0.1' is no condition; write NAME>VALUE"),
        ("errors>much", "'errors>much' is no condition"),
        ("rows>50%", "'rows>50%' is a percentage of nothing; for a change write rows±50%"),
        ("rows±-50%", "'rows±-50%' has two signs; write rows±50%"),
        ("labels>+0.1", "labels is a comparison already; write labels>0.1"),
        ("tone.rows>1", "rows does not belong to a question"),
        (" , ", "has no condition"),
    ],
)
def test_a_wrong_condition_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(RequestError) as error:
        parse_conditions(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    with suppress(RequestError):
        assert all(each.name in NAMES for each in parse_conditions(text))


@given(st.sampled_from([name for name in NAMES if name != "drift"]), st.floats(0, 1e6), st.sampled_from("<>"))
def test_a_condition_is_read_as_it_is_written(name: str, value: float, op: str) -> None:
    (found,) = parse_conditions(f" {name} {op} {value:f} ")
    assert (found.name, found.op, found.is_difference) == (name, op, False)
    assert math.isclose(found.number, value, abs_tol=1e-6)


def test_what_compares_needs_a_baseline() -> None:
    for text in ("labels>0.1", "drift", "errors>+0.1", "rows±10%"):
        with pytest.raises(RequestError, match="compares with other outputs; give --against"):
            check_baselines(parse_conditions(text), [])
        check_baselines(parse_conditions(text), ["last"])
    check_baselines(parse_conditions("errors>0.1,rows<100,seconds>60"), [])


def test_a_condition_about_one_of_several_questions() -> None:
    values = VALUES | {
        "output": {"rows": 350, "questions": {"topic": {}, "tone": {}}},
        "figures": [figure("abstained", 0.1, 0.1, question="topic"), figure("abstained", 0.3, 0.1, question="tone")],
        "questions": {"topic": {"labels": LABELS | {"corrected_psi": 0.0}}, "tone": {"labels": LABELS}},
    }
    assert holds("abstained>0.2", values)
    assert not holds("topic.abstained>0.2", values)
    (outcome,) = evaluate(parse_conditions("labels>0.1"), values)
    assert outcome.sentence == "tone.labels is 0.15 (moderate change)"
    assert not holds("topic.labels>0.1", values)
    with pytest.raises(RequestError, match="the job has no question 'topik'; did you mean topic"):
        holds("topik.abstained>0.2", values)


def test_few_rows_and_no_rows_end_no_job() -> None:
    few = VALUES | {"questions": {"": {"labels": LABELS | {"finding": "few rows", "is_tested": False}}}}
    assert not holds("labels>0.1", few)
    empty = VALUES | {"output": {"rows": 0, "questions": {}}, "figures": [figure("rows", 0.0, 350.0, "count")]}
    assert not holds("accuracy<-0.05", empty)
    assert holds("rows<100", empty)


def test_labels_that_cannot_be_compared_are_said() -> None:
    other = VALUES | {"questions": {"": {"labels": LABELS | {"finding": "not tested", "is_tested": False}}}}
    with pytest.raises(RequestError, match=r"labels>0\.1: no baseline has the same labels"):
        holds("labels>0.1", other)
    with pytest.raises(RequestError, match=r"changed>0\.1: no row of the output is in a baseline"):
        holds("changed>0.1", VALUES | {"changed_rows": []})


def test_anything_is_infinitely_more_than_nothing() -> None:
    assert holds("abstained>+1000%")
    assert evaluate([Condition(text="x", name="abstained", number=0.05)], VALUES)[0].sentence == "abstained is 10 %"
