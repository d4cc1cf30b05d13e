"""Evaluating a finished output: its figures, its comparison with another one, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.gold.outputs import LABELS, PLAN_ID, answers, random_chances, write_output
from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import InputError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.evaluation.evaluate import evaluate
from tirazh.pipeline.gold.read import GoldSource, read_predictions
from tirazh.pipeline.gold.run import evaluate_output
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.steps.verify import verify_output
from tirazh.pipeline.storage.filesystem import Storage

CHANCES = random_chances(60)
GOLD = [LABELS[each] for each in np.random.default_rng(1).integers(0, 3, 60)]
COLUMN = GoldSource(column="gold")


def table(chances: np.ndarray = CHANCES, gold: list[str] = GOLD, **settings: Any) -> pa.Table:
    return answers(chances, **settings).append_column("gold", pa.array(gold))


def report_of(output: str) -> str:
    return (Path(output) / "_tirazh/report.html").read_text(encoding="utf-8")


def test_the_figures_are_written_beside_the_report_which_shows_them(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", table(abstain_below=0.6), parts=3)
    found = evaluate_output(output, COLUMN)
    assert found == json.loads((Path(output) / "_tirazh/evaluation.json").read_text(encoding="utf-8"))
    predictions, _ = read_predictions(output, gold_column="gold")
    assert found["accuracy"] == evaluate(predictions).accuracy
    assert found["intervals"]["ece"] == list(evaluate(predictions).intervals["ece"])
    assert (found["plan_id"], found["gold"]) == (PLAN_ID, {"column": "gold"})
    page = report_of(output)
    assert "<h2>Evaluation</h2>" in page
    assert f'<td class="number">{found["ece"]:.4f}</td>' in page
    assert page.count("<title>Accuracy by confidence</title>") == page.count("<title>Error by coverage</title>") == 1


def test_an_output_in_an_object_store_is_read_and_written_in_place(tmp_path: Path) -> None:
    local = write_output(tmp_path / "out", table(), parts=2)
    stored = write_output("memory://evaluation/out", table(), parts=2)
    found, expected = evaluate_output(stored, COLUMN), evaluate_output(local, COLUMN)
    assert found | {"output": ""} == expected | {"output": ""}
    assert json.loads(Storage().read("memory://evaluation/out/_tirazh/evaluation.json")) == found


def test_without_writing_the_output_stays_as_it_is(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", table())
    before = sorted(Path(output).rglob("*"))
    evaluate_output(output, COLUMN, write=False)
    assert sorted(Path(output).rglob("*")) == before


def test_the_seed_changes_the_intervals_alone(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", table())
    first, second = (evaluate_output(output, COLUMN, seed=seed, write=False) for seed in (1, 2))
    assert first.pop("intervals") != second.pop("intervals")
    assert {**first, "seed": 2} == second
    with pytest.raises(RequestError, match="--seed must be"):
        evaluate_output(output, COLUMN, seed=-1)


def test_an_evaluation_of_rows_that_were_made_again_is_not_shown(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", table())
    found = evaluate_output(output, COLUMN)
    path = Path(output) / "_tirazh/evaluation.json"
    path.write_text(json.dumps({**found, "rows_id": "another"}), encoding="utf-8")
    write_report(output)
    assert "<h2>Evaluation</h2>" not in report_of(output)
    path.write_text("{", encoding="utf-8")
    write_report(output)


def test_every_question_has_its_own_evaluation(tmp_path: Path) -> None:
    names = {"label": "topic", "confidence": "topic_confidence", "probabilities": "topic_probabilities"}
    columns = [names.get(name, name) for name in table().column_names]
    both = table().rename_columns(columns).append_column("tone", pa.array(["good", "bad"] * 30))
    questions = {"topic": {"labels": list(LABELS)}, "tone": {"labels": {"good": "g", "bad": "b"}}}
    output = write_output(tmp_path / "out", both, spec={"labels": None, "questions": questions})
    evaluate_output(output, COLUMN, question="topic")
    evaluate_output(output, GoldSource(column="tone"), question="tone")
    page = report_of(output)
    assert "<h2>Evaluation of topic</h2>" in page
    assert "<h2>Evaluation of tone</h2>" in page
    assert json.loads((Path(output) / "_tirazh/evaluation-tone.json").read_text(encoding="utf-8"))["accuracy"] == 1


def test_the_labels_of_a_job_of_several_steps_are_evaluated(tmp_path: Path) -> None:
    columns = ["id", "topic_label", "topic_confidence", "topic_probabilities", "topic_error", "gold"]
    steps = [{"name": "text", "kind": "generate"}, {"name": "topic", "kind": "classify", "prefix": "topic_"}]
    steps[1]["labels"] = dict.fromkeys(LABELS)  # type: ignore[assignment]
    output = write_output(tmp_path / "out", table().rename_columns(columns), kind="steps", spec={"steps": steps})
    assert evaluate_output(output, COLUMN)["rows"] == 60
    assert "## Evaluation\n" in (Path(output) / "_tirazh/README.md").read_text(encoding="utf-8")
    with pytest.raises(RequestError, match=r"several classify steps \(topic, topic\)"):
        evaluate_output(write_output(tmp_path / "two", table(), kind="steps", spec={"steps": steps[1:] * 2}), COLUMN)


def test_two_outputs_of_the_same_rows_are_compared(tmp_path: Path) -> None:
    first = write_output(tmp_path / "first", table(), parts=2)
    changed = np.roll(CHANCES, 1, axis=1)
    second = write_output(tmp_path / "second", table(changed), parts=3)
    found = evaluate_output(first, COLUMN, against=second, write=False)["against"]
    right = [
        np.mean([LABELS[each] for each in chances.argmax(axis=1)] == np.array(GOLD)) for chances in (CHANCES, changed)
    ]
    assert (found["first_accuracy"], found["second_accuracy"]) == (pytest.approx(right[0]), pytest.approx(right[1]))
    assert (found["changed"], found["rows_only_here"]) == (60, 0)


def test_rows_in_another_order_are_compared_by_their_key(tmp_path: Path) -> None:
    first = write_output(tmp_path / "first", table())
    order = np.random.default_rng(3).permutation(60)[:50]
    shuffled = table().take(pa.array(order))
    second = write_output(tmp_path / "second", shuffled)
    found = evaluate_output(first, GoldSource(column="gold", key="id"), against=second, write=False)["against"]
    assert (found["rows_only_here"], found["rows_only_there"], found["changed"]) == (10, 0, 0)
    with pytest.raises(InputError, match="different numbers of rows, 60 and 50; give --key COLUMN"):
        evaluate_output(first, COLUMN, against=second, write=False)
    third = write_output(tmp_path / "third", table(gold=GOLD[::-1]))
    with pytest.raises(InputError, match=r"do not have the same rows: row \d+ has the gold labels"):
        evaluate_output(first, COLUMN, against=third, write=False)
    twice = pa.concat_tables([table(), table().slice(0, 1)])
    with pytest.raises(InputError, match="several rows of the other output have the key 0"):
        evaluate_output(
            first,
            GoldSource(column="gold", key="id"),
            against=write_output(tmp_path / "twice", twice),
            write=False,
        )


def test_an_output_without_a_known_gold_label_is_refused_with_the_reason(tmp_path: Path) -> None:
    others = write_output(tmp_path / "others", table(gold=["weather"] * 60))
    with pytest.raises(RequestError, match=r"labels economics, sport, culture: 60 rows of .* such as 'weather'"):
        evaluate_output(others, COLUMN)
    pq.write_table(pa.table({"id": ["x"], "label": ["sport"]}), tmp_path / "gold.parquet")
    with pytest.raises(RequestError, match=r"no key of .*gold.parquet is in the column 'id'"):
        evaluate_output(others, GoldSource(file=str(tmp_path / "gold.parquet"), key="id"))


def test_the_report_of_a_job_with_a_gold_column_shows_what_needs_no_confidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows from the counts in the manifest, so that a job does not read its parts again."""
    run_without_ray(monkeypatch)
    rows = pa.table({"text": ["a", "b", "c", "d"], "gold": ["sport", "art", "weather", None]})
    pq.write_table(rows, tmp_path / "in.parquet")
    spec = ClassifySpec(
        input=(str(tmp_path / "in.parquet"),),
        output=str(tmp_path / "out"),
        labels={"sport": "sport", "art": "art"},
        gold_column="gold",
    )
    manifest = run_job(spec)
    assert manifest["confusion"] == [["art", "sport", 1], ["sport", "sport", 1], ["weather", "sport", 1]]
    page = report_of(spec.output)
    assert "2 rows are compared with their gold labels" in page
    assert "1 have no gold label, 1 have a gold label that is none of the job&#39;s labels" in page
    found = evaluate_output(spec.output, GoldSource())
    assert (found["accuracy"], found["counts"]["unknown_gold"]) == (0.5, 1)
    assert verify_output(spec.output).problems == ()
    assert run_job(replace(spec, gold_column=None)).get("confusion") is None
