"""The calibration file: the same calibration after reading, what its digest depends on, damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.classification.calibration.samples import draw
from tirazh.errors import InputError, RequestError
from tirazh.pipeline.classification.calibration.calibration import fit_calibration
from tirazh.pipeline.classification.calibration.file import CalibrationFile, parse_calibration
from tirazh.pipeline.classification.calibration.load import check_scores, load_calibration
from tirazh.pipeline.classification.calibration.make_file import make_calibration_file
from tirazh.pipeline.classification.calibration.score_settings import (
    ScoreSettings,
    score_difference,
    score_fingerprint,
)
from tirazh.pipeline.storage.filesystem import Storage

IDENTITY: dict[str, Any] = {
    "kind": "classify",
    "input": ["/data/news"],
    "text_column": "text",
    "labels": {"a": "a", "b": ["b", "bee"], "c": None},
    "calibrate": None,
    "abstain_below": 0.0,
    "model": "/models/one",
    "template": "{{ text }}:",
    "seq_length": 512,
    "truncate": "right",
}


def scores_of(**changes: Any) -> ScoreSettings:
    given = {"model_fingerprint": "m", "examples_sha256": None} | {
        name: changes.pop(name) for name in ("model_fingerprint", "examples_sha256", "question") if name in changes
    }
    return score_fingerprint(IDENTITY | changes, **given)


def make(method: str = "vector", rows: int = 120) -> CalibrationFile:
    scores, gold = draw(rows, 3, bias=1.0)
    return make_calibration_file(fit_calibration(scores, gold, ("a", "b", "c"), method=method), scores_of())  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["temperature", "batch", "vector", "isotonic"])
def test_a_file_gives_the_same_calibration_to_the_last_bit(method: str) -> None:
    file = make(method)
    read = parse_calibration(file.to_json(), name="c.json")
    assert read == file
    other, _ = draw(50, 3, seed=4)
    assert np.array_equal(read.calibration.apply(other), file.calibration.apply(other))
    assert read.digest == file.digest


def test_the_digest_is_that_of_what_changes_probabilities_and_thresholds() -> None:
    file = make()
    assert replace(file, created="2001-01-01", version="0", figures={}).digest == file.digest
    assert make().digest == file.digest
    assert make("temperature").digest != file.digest
    assert make(rows=121).digest != file.digest
    assert replace(file, scores=replace(file.scores, base="contextual")).digest != file.digest


def test_figures_are_those_before_and_after_on_rows_that_were_not_fitted() -> None:
    figures = make().figures
    assert figures["rows"] == 120
    assert figures["after"]["log_loss"] == figures["log_loss"]["vector"]
    assert figures["after"]["log_loss"] < figures["before"]["log_loss"] == figures["log_loss"]["none"]
    assert figures["after"]["ece"] < figures["before"]["ece"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values.pop("transform"), "is not a calibration file .KeyError"),
        (lambda values: values["label_names"].pop(), "do not fit together"),
        (lambda values: values["transform"]["scales"].__setitem__(0, float("nan")), "not finite"),
        (lambda values: values["labelled_rows"]["correct"].pop(), "do not fit together"),
        (lambda values: values.update(method="magic"), "unknown method"),
        (lambda values: values.update(format="other"), "is not a calibration file"),
        (lambda values: values.update(format_version=2), "written by another version of tirazh"),
        (lambda values: values.update(scores=[]), "is not a calibration file"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(damage: Any, message: str) -> None:
    values = json.loads(make().to_json())
    damage(values)
    with pytest.raises(InputError, match=message):
        parse_calibration(json.dumps(values).encode(), name="c.json")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"12", b"[" * 100_000, b'{"format": "tirazh calibration"}'])
def test_any_other_file_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(InputError, match=r"c\.json is not a calibration file"):
        parse_calibration(data, name="c.json")


def test_a_missing_file_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contxtual does not exist; `tirazh calibrate` makes one"):
        load_calibration(str(tmp_path / "contxtual"), Storage())


@pytest.mark.parametrize(
    "change",
    [
        {"input": ["/other"], "limit": 5},
        {"text_column": "body"},
        {"abstain_below": 0.7},
        {"target_error": 0.05},
        {"calibrate": "contextual"},
        {"priors": "balanced"},
        {"model": "/elsewhere/one"},
        {"top": 2, "shape": "decision", "multi_label": 0.3, "none_label": "c"},
        {"labels": {"a": None, "b": {"words": "b", "aliases": ["bee"]}, "c": "c"}},
        {"permutations": 1},
    ],
)
def test_what_does_not_change_the_scores_of_a_row_is_allowed(change: dict[str, Any]) -> None:
    assert score_difference(scores_of(), scores_of(**change)) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_fingerprint": "other"}, "was made with another model"),
        ({"template": "{{ text }}\nTopic:"}, "was made with this --template|was made with --template {{ text }}:, not"),
        ({"template": None}, "was made with --template {{ text }}:, not without --template"),
        ({"labels": {"a": "a", "b": ["b", "bee"]}}, "has 3 labels, but the job has 2"),
        ({"labels": {"a": "a", "b": ["b", "bee"], "d": "d"}}, "has the label 'c' where the job has 'd'"),
        ({"labels": {"b": ["b", "bee"], "a": "a", "c": None}}, r"has the labels in another order \(a, b, c\)"),
        ({"labels": {"a": "a", "b": "b", "c": None}}, "was made with other words of the label 'b'"),
        ({"examples_sha256": "e"}, "was made without few-shot examples"),
        ({"scoring": "mean"}, "was made without --scoring, not with --scoring mean"),
        ({"seq_length": 1024}, "was made with --seq-length 512, not with --seq-length 1024"),
        ({"a_later_setting": 1}, "was made without --a-later-setting, not with --a-later-setting 1"),
    ],
)
def test_a_file_of_other_scores_is_refused_by_the_difference(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=f"c.json cannot be used here: it ({sentence})"):
        check_scores(make(), "c.json", scores_of(**change))


def test_a_question_has_its_own_labels_and_suffix() -> None:
    questions = {
        "topic": {"labels": {"a": "a", "b": "b"}, "suffix": " Topic:"},
        "tone": {"labels": "good, bad", "suffix": " Tone:"},
    }
    topic, tone = (scores_of(labels=None, questions=questions, question=name) for name in ("topic", "tone"))
    assert topic.names == ("a", "b")
    assert topic.suffix == " Topic:"
    assert score_difference(topic, tone) == "has the label 'a' where the job has 'good'"
    assert ScoreSettings.from_json(json.loads(json.dumps(topic.to_json()))) == topic
