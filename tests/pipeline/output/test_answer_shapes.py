"""Finished outputs of every shape of answers: their manifest, `verify`, the report, and what other tools read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from tests.pipeline.answered import finish_with_scores
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.pipeline.drift.run import report_output
from tirazh.pipeline.output.ledger import finished_manifest, receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import choose_target
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.report.answers import answers_of
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

MakeSpec = Callable[..., ClassifySpec]
LABELS = {"sport/football": "football", "sport/hockey": "hockey", "art": "art", "other": "other"}
QUESTIONS = {
    "topic": {"labels": LABELS, "suffix": "\nTopic:", "none_label": "other", "gold_column": "gold"},
    "tone": {"labels": ["good", "bad"], "suffix": "\nTone:", "abstain_below": 0.7},
}
# Clear, below a threshold of 0.5 but with a level above it, unclear, none of the labels, and an error.
TOPICS = [(0.1, 0.1, 0.7, 0.1), (0.4, 0.35, 0.2, 0.05), (0.3, 0.15, 0.35, 0.2), (0.1, 0.1, 0.1, 0.7), None]
TONES = [(0.9, 0.1), (0.6, 0.4), (0.2, 0.8), (0.5, 0.5), None]
GOLD = ["art", "sport", "sport/football", "other", "art"]
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "decision": {"shape": "decision"},
    "top": {"top": 2},
    "several labels": {"multi_label": 0.3},
    "questions": {"questions": QUESTIONS, "labels": None, "gold_column": None, "none_label": None},
    "all": {"questions": QUESTIONS, "labels": None, "gold_column": None, "none_label": None}
    | {"shape": "decision", "top": 3, "multi_label": 0.3, "prefix": "t_"},
}


@pytest.fixture
def make_spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> MakeSpec:
    write_input("a.parquet", text=[f"text {n}" for n in range(5)], gold=GOLD)

    def make(**settings: Any) -> ClassifySpec:
        return ClassifySpec(
            **{
                **{"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "model": str(model_dir)},
                **{"labels": LABELS, "gold_column": "gold", "abstain_below": 0.5, "none_label": "other"},
                **{"part_rows": 3, "max_error_rate": 0.5},
                **settings,
            }
        )

    return make


def finished(spec: ClassifySpec) -> dict[str, Any]:
    logs = [None if row is None else [math.log(share) for share in row] for row in TOPICS]
    tones = [None if row is None else [math.log(share) for share in row] for row in TONES]
    if spec.questions is None:
        return finish_with_scores(spec, logs)
    return finish_with_scores(
        spec, [None if row is None or more is None else row + more for row, more in zip(logs, tones, strict=True)]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_an_output_of_every_shape_is_whole_and_finished(shape: str, make_spec: MakeSpec) -> None:
    spec = make_spec(**SHAPES[shape])
    manifest = finished(spec)
    assert verify(spec.output).problems == ()
    output = OutputFiles(Storage(), spec.output)
    assert finished_manifest(plan_job(spec), output, receipt_settings(spec)) == json.loads(json.dumps(manifest))
    page = Path(write_report(spec.output)).read_text()
    assert "Labels" in page
    assert "Confidence" in page
    assert verify(spec.output).problems == ()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tool_reads_the_same_rows(shape: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    import datasets

    spec = make_spec(**SHAPES[shape])
    finished(spec)
    files = f"{spec.output}/*.parquet"
    rows = ds.dataset(spec.output).to_table().to_pylist()
    assert len(rows) == 5
    assert pl.read_parquet(files).to_dicts() == rows
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.to_list() == rows
    frame = pd.read_parquet(spec.output, dtype_backend="pyarrow")
    read = duckdb.sql(f"FROM '{files}'")
    for number, name in enumerate(frame.columns):
        if "prob" in name or "labels" in name:
            assert [None if value is pd.NA or value is None else list(value) for value in frame[name]] == [
                row[name] for row in rows
            ]
        else:
            assert frame[name].astype(object).where(frame[name].notna(), None).tolist() == [row[name] for row in rows]
        assert [row[number] for row in read.fetchall()] == [row[name] for row in rows]
        read = duckdb.sql(f"FROM '{files}'")


def test_the_columns_of_every_shape(make_spec: MakeSpec) -> None:
    from tirazh.pipeline.columns import added_columns

    found = {shape: added_columns(make_spec(**SHAPES[shape])).names for shape in SHAPES}
    last = ["prompt_tokens", "error"]
    assert found["plain"] == found["top"] == ["label", "confidence", "probabilities", *last]
    assert found["decision"] == ["choice", "confidence", "probabilities", "abstained", *last]
    assert found["several labels"] == ["label", "confidence", "probabilities", "labels", *last]
    assert found["questions"] == [
        *("topic", "topic_confidence", "topic_probabilities", "tone", "tone_confidence", "tone_probabilities"),
        *last,
    ]
    assert found["all"] == [
        *("t_topic", "t_topic_confidence", "t_topic_probabilities", "t_topic_labels", "t_topic_abstained"),
        *("t_tone", "t_tone_confidence", "t_tone_probabilities", "t_tone_labels", "t_tone_abstained"),
        *("t_prompt_tokens", "t_error"),
    ]


def test_the_manifest_counts_labels_levels_and_both_reasons_to_abstain(make_spec: MakeSpec) -> None:
    manifest = finished(make_spec())
    assert manifest["labels"] == {"art": 1, "sport": 1}
    assert (manifest["abstained"], manifest["abstained_by"]) == (2, {"threshold": 1, "none_label": 1})
    # The row whose gold label is the none label is right, although its label is null.
    assert (manifest["gold_rows"], manifest["accuracy"]) == (4, 0.75)
    assert manifest["confidences"] == [0] * 7 + [1] + [0] * 6 + [2, 1] + [0] * 4
    assert manifest["mean_confidence"] == pytest.approx((0.7 + 0.75 + 0.35 + 0.7) / 4)


def test_the_manifest_counts_each_question_with_its_gold_column(make_spec: MakeSpec) -> None:
    manifest = finished(make_spec(**SHAPES["questions"]))
    topic, tone = manifest["questions"]["topic"], manifest["questions"]["tone"]
    assert "labels" not in manifest
    assert topic["labels"] == {"art": 1, "sport": 1}
    assert (topic["accuracy"], topic["abstained_by"]) == (0.75, {"threshold": 1, "none_label": 1})
    assert (tone["labels"], tone["abstained"]) == ({"bad": 1, "good": 1}, 2)
    assert "accuracy" not in tone


def test_the_report_says_why_rows_have_no_label(make_spec: MakeSpec) -> None:
    spec = make_spec(**SHAPES["questions"])
    finished(spec)
    page = Path(write_report(spec.output)).read_text()
    reasons = "in 1 the confidence was too low, in 1 the most likely label was the one for none of the others"
    space = "\N{NO-BREAK SPACE}"
    assert f"topic: 40{space}% of the rows have no label: {reasons}." in page
    assert f"topic: 20{space}% of the rows have a level above the labels as their label." in page
    assert f"tone: 40{space}% of the rows have no label: the confidence was too low." in page
    assert "<h2>Least certain rows: topic</h2>" in page
    assert "<strong>good</strong>" in page


@pytest.mark.parametrize("shape", SHAPES)
def test_an_output_of_any_shape_is_compared_with_another(shape: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec, other = (make_spec(**SHAPES[shape], output=str(tmp_path / name)) for name in ("out", "other"))
    manifest = finished(spec)
    finished(other)
    found = report_output(spec.output, against=[other.output]).values
    figures = {(each["name"], each["question"]): each for each in found["figures"]}
    for question, facts in answers_of(manifest).items():
        counts = found["output"]["questions"][question]
        assert (counts["labels"], counts["no_label"]) == (facts["labels"], facts["abstained"])
        assert figures["confidence", question]["value"] == pytest.approx(facts["mean_confidence"])
        assert figures["confidence", question]["difference"] == 0
        if "accuracy" in facts:
            assert figures["accuracy", question]["value"] == facts["accuracy"]
    assert {each["question"] for each in found["changed_rows"]} == set(answers_of(manifest))
    assert {each["changed"] for each in found["changed_rows"]} == {0}


def test_the_report_of_an_unfinished_output_has_the_labels_so_far(make_spec: MakeSpec) -> None:
    spec = make_spec(**SHAPES["questions"])
    finished(spec)
    for name in ("_SUCCESS", "_tirazh/manifest.json"):
        (Path(spec.output) / name).unlink()
    page = Path(write_report(spec.output)).read_text()
    assert "Labels so far" in page
    assert '<th scope="row">topic: art</th>' in page


def test_another_gold_column_of_a_question_is_no_other_job(make_spec: MakeSpec) -> None:
    spec = make_spec(**SHAPES["questions"])
    finished(spec)
    other = {name: {**question, "gold_column": None} for name, question in QUESTIONS.items()}
    changed = make_spec(**{**SHAPES["questions"], "questions": other})
    output = OutputFiles(Storage(), spec.output)
    assert choose_target(output, plan_job(changed), overwrite=False).is_stored
    assert finished_manifest(plan_job(changed), output, receipt_settings(changed)) is None
    assert verify(spec.output).problems == ()


@pytest.mark.parametrize(
    "change", [{"shape": "decision"}, {"top": 1}, {"multi_label": 0.5}, {"none_label": None}, {"priors": "balanced"}]
)
def test_another_decision_is_another_job(change: dict[str, Any], make_spec: MakeSpec) -> None:
    spec = make_spec()
    finished(spec)
    with pytest.raises(OutputError, match=f"another job: --{next(iter(change)).replace('_', '-')} differs"):
        choose_target(OutputFiles(Storage(), spec.output), plan_job(make_spec(**change)), overwrite=False)


def test_priors_of_other_shares_are_another_plan(make_spec: MakeSpec) -> None:
    shares = dict.fromkeys(LABELS, 0.25)
    other = {**shares, "art": 0.255, "other": 0.245}
    plans = [plan_job(make_spec(priors=value)) for value in (shares, dict(reversed(shares.items())), other)]
    assert plans[0].id == plans[1].id != plans[2].id


@pytest.mark.parametrize(
    ("columns", "questions", "says"),
    [
        (
            ["topic_confidence"],
            QUESTIONS,
            "the input already has a column 'topic_confidence'; rename the added columns",
        ),
        (["Tone"], QUESTIONS, "the input already has a column 'Tone', which Spark and DuckDB do not distinguish"),
        ([], {**QUESTIONS, "error": QUESTIONS["tone"]}, "two of the added columns would have the name 'error'"),
        (
            [],
            {**QUESTIONS, "topic_confidence": QUESTIONS["tone"]},
            "two of the added columns would have the name 'topic_confidence'; rename a question",
        ),
    ],
)
def test_equal_names_of_columns_are_refused(
    columns: list[str], questions: Any, says: str, make_spec: MakeSpec, write_input: Callable[..., Path]
) -> None:
    write_input("a.parquet", text=["a"], gold=["art"], **{name: ["x"] for name in columns})
    with pytest.raises((InputError, RequestError), match=says):
        plan_job(make_spec(**{**SHAPES["questions"], "questions": questions}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"priors": "column:shares"}, "--priors: the input has no column 'shares'"),
        ({"priors": "column:gold_"}, "--priors: the input has no column 'gold_'; did you mean gold"),
        (
            {"questions": {"topic": {**QUESTIONS["topic"], "gold_column": "golds"}}}
            | {"labels": None, "gold_column": None, "none_label": None},
            "--questions topic: gold_column",
        ),
    ],
)
def test_missing_columns_are_refused(settings: dict[str, Any], says: str, make_spec: MakeSpec) -> None:
    with pytest.raises(InputError, match=says):
        plan_job(make_spec(**settings))
