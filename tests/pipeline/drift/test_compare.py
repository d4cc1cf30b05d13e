"""The comparison of finished outputs: verdict, figures, labels, estimates and changed rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.drift.nights import LABELS, MORE_SPORT, Night, gold_facts, night_table, write_night
from tests.pipeline.gold.outputs import write_output
from tirazh.errors import InputError, RequestError
from tirazh.pipeline.drift.baselines import open_baselines
from tirazh.pipeline.drift.compare import compare
from tirazh.pipeline.gold.read import GoldSource
from tirazh.pipeline.gold.run import evaluate_output
from tirazh.pipeline.storage.filesystem import Storage


def compared(output: str, *against: str, key: str | None = None) -> dict[str, Any]:
    return compare(open_baselines(output, against, Storage()), key=key)


def figure(values: dict[str, Any], name: str, question: str = "") -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in values["figures"] if (each["name"], each["question"]) == (name, question)
    )
    return found


def last_nights(directory: Path, **night: Any) -> list[str]:
    return [write_night(directory / f"2026-11-{day}", Night(seed=day, **night)) for day in range(18, 23)]


def test_the_verdict_says_what_changed_and_how_sure_that_is(tmp_path: Path) -> None:
    output = write_night(tmp_path / "2026-11-23", Night(seed=1, shares=MORE_SPORT))
    values = compared(output, *last_nights(tmp_path))
    assert values["verdict"] == [
        "More sport than in the last 5 nights: 11 % instead of 3.8 % (p < 0.0001).",
        "Nothing else changed beyond chance.",
    ]
    assert values["changes"] == ["labels"]


def test_a_usual_night_has_one_sentence(tmp_path: Path) -> None:
    output = write_night(tmp_path / "2026-11-23", Night(seed=1))
    assert compared(output, *last_nights(tmp_path))["verdict"] == [
        "Nothing changed beyond chance against the last 5 nights."
    ]


def test_the_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    here, there = Night(seed=1, rows=300, error_share=0.05, abstain_below=0.7), Night(seed=2, abstain_below=0.7)
    output, last = write_night(tmp_path / "b", here, parts=3), write_night(tmp_path / "a", there)
    values, table = compared(output, last), night_table(here)
    errors = np.array([each is not None for each in table.column("error").to_pylist()])
    labels = np.array(table.column("label").to_pylist(), object)[~errors]
    confidence = np.array(table.column("confidence").drop_null().to_pylist())
    tokens = table.column("prompt_tokens").drop_null().to_pylist()
    answered = np.array([label is not None for label in labels])
    expected = {
        "rows": 300,
        "errors": errors.mean(),
        "abstained": 1 - answered.mean(),
        "confidence": confidence.mean(),
        "estimated_accuracy": confidence[answered].mean(),
        "length": np.mean(tokens),
    }
    assert {name: figure(values, name)["value"] for name in expected} == pytest.approx(expected)
    assert figure(values, "rows")["difference"] == -50
    assert figure(values, "rows")["relative"] == pytest.approx(-1 / 7)
    shares = values["questions"][""]["labels"]["labels"]
    assert sum(row["share"] for row in shares) == pytest.approx(1)
    assert sum(row["rows"] for row in shares) == (~errors).sum()
    assert shares[-1]["label"] is None


def test_several_baselines_are_one_with_a_row_for_each(tmp_path: Path) -> None:
    output = write_night(tmp_path / "2026-11-23", Night(seed=1))
    values = compared(output, *last_nights(tmp_path))
    errors = figure(values, "length")
    assert len(errors["of_baselines"]) == 5
    assert errors["lowest"] <= errors["baseline"] <= errors["highest"]
    assert figure(values, "rows")["baseline"] == 350
    assert [each["name"] for each in values["baselines"]] == [f"2026-11-{day}" for day in range(18, 23)]
    assert sum(values["baselines"][0]["questions"][""]["labels"].values()) == 350


def test_accuracy_without_gold_is_estimated_and_its_gap_to_the_gold_rows_shown(tmp_path: Path) -> None:
    spec = {"gold_column": "gold"}
    night = Night(rows=4_000, seed=1, gold_share=0.5)
    output = write_night(tmp_path / "b", night, spec=spec)
    last = write_night(tmp_path / "a", Night(rows=4_000, seed=2, gold_share=0.5), spec=spec)
    values = compared(output, last)
    found = values["questions"][""]["estimated_accuracy"]
    assert found["gold"]["rows"] == pytest.approx(2_000, abs=100)
    assert found["gold"]["estimated"] == pytest.approx(found["gold"]["measured"], abs=0.03)
    assert not found["gold"]["is_beyond_chance"]
    assert figure(values, "accuracy")["value"] == gold_facts(night_table(night), LABELS)["accuracy"]
    low, high = figure(values, "estimated_accuracy")["interval"]
    # In every row, the label is right with the probability that its confidence says.
    truth = gold_facts(night_table(replace(night, gold_share=1.0)), LABELS)["accuracy"]
    assert low < truth < high
    assert figure(values, "macro_f1")["difference"] is not None


def test_confidences_that_promise_too_much_are_said_to(tmp_path: Path) -> None:
    table = night_table(Night(rows=2_000, seed=1, gold_share=1.0))
    rng = np.random.default_rng(0)
    wrong = pa.array([LABELS[each] for each in rng.integers(0, 5, 2_000)])
    table = table.set_column(2, "gold", wrong)
    output = write_night(tmp_path / "b", table, spec={"gold_column": "gold"})
    found = compared(output, write_night(tmp_path / "a", Night()))["questions"][""]["estimated_accuracy"]
    assert found["gold"]["is_beyond_chance"]
    assert found["gold"]["gap"] > 0.5
    assert found["baseline_gold"] is None


def test_gold_labels_that_came_later_count(tmp_path: Path) -> None:
    output, last = (
        write_night(tmp_path / name, Night(seed=seed, gold_share=0.5)) for name, seed in (("b", 1), ("a", 2))
    )
    for each in (output, last):
        evaluate_output(each, GoldSource(column="gold"))
    values = compared(output, last)
    assert (
        figure(values, "accuracy")["value"]
        == gold_facts(night_table(Night(seed=1, gold_share=0.5)), LABELS)["accuracy"]
    )
    gap = values["questions"][""]["estimated_accuracy"]["gold"]
    assert gap["measured"] == pytest.approx(figure(values, "accuracy")["value"])


def changed_table(table: pa.Table, rows: int) -> pa.Table:
    """The same rows, the first ones with the next label."""
    labels = table.column("label").to_pylist()
    changed = [LABELS[(LABELS.index(label) + 1) % 5] if row < rows else label for row, label in enumerate(labels)]
    return table.set_column(table.column_names.index("label"), "label", pa.array(changed))


def test_the_same_rows_with_another_label_are_found_by_their_text(tmp_path: Path) -> None:
    table = night_table(Night(rows=200, seed=1))
    last = write_night(tmp_path / "a", table)
    order = np.random.default_rng(0).permutation(200)
    output = write_night(tmp_path / "b", changed_table(table, 30).take(order), parts=3)
    (found,) = compared(output, last)["changed_rows"]
    assert (found["shared_rows"], found["changed"], found["share"], found["by"]) == (200, 30, 0.15, ["text"])
    assert sum(each["rows"] for each in found["transitions"]) == 30
    assert len(found["examples"]) == 20
    texts, labels = (table.column(name).to_pylist() for name in ("text", "label"))
    for example in found["examples"]:
        assert example["before"] == labels[texts.index(example["columns"]["text"])]
        assert example["after"] == LABELS[(LABELS.index(example["before"]) + 1) % 5]


def test_the_same_rows_are_found_by_a_key(tmp_path: Path) -> None:
    table = night_table(Night(rows=100, seed=1))
    keys = pa.array(range(100))
    last = write_night(tmp_path / "a", table.set_column(0, "id", keys.cast(pa.int32())))
    edited = changed_table(table, 7).set_column(1, "text", pa.array([f"edited {row}" for row in range(100)]))
    output = write_night(tmp_path / "b", edited.set_column(0, "id", keys), spec={"key": "id"})
    (found,) = compared(output, last)["changed_rows"]
    assert (found["shared_rows"], found["changed"], found["by"]) == (100, 7, ["id"])
    assert compared(output, last, key="text")["changed_rows"] == []
    with pytest.raises(RequestError, match=r"--key: .*b has no column 'idd'; did you mean id"):
        compared(output, last, key="idd")


def test_the_columns_of_a_template_tell_rows_apart(tmp_path: Path) -> None:
    table = night_table(Night(rows=50, seed=1)).append_column("title", pa.array(["same"] * 25 + ["other"] * 25))
    spec = {"template": "{{ title }}\n{{ text }}"}
    last = write_night(tmp_path / "a", table, spec=spec)
    output = write_night(tmp_path / "b", table.set_column(8, "title", pa.array(["same"] * 50)), spec=spec)
    (found,) = compared(output, last)["changed_rows"]
    assert (found["shared_rows"], found["by"]) == (25, ["text", "title"])


def test_repeated_rows_count_once_and_rows_with_an_error_do_not(tmp_path: Path) -> None:
    table = night_table(Night(rows=60, seed=1))
    last = write_night(tmp_path / "a", pa.concat_tables([table, table]))
    error = pa.array(["too long" if row < 10 else None for row in range(60)], pa.string())
    output = write_night(tmp_path / "b", table.set_column(7, "error", error))
    (found,) = compared(output, last)["changed_rows"]
    assert (found["shared_rows"], found["changed"]) == (50, 0)


def test_the_model_settings_and_labels_that_differ_are_said(tmp_path: Path) -> None:
    output = write_night(tmp_path / "b", Night(seed=1))
    other = write_night(
        tmp_path / "a",
        Night(seed=2, labels=("war", *LABELS[1:])),
        spec={"model": "rugpt3xl", "abstain_below": 0.4, "labels": ["war", *LABELS[1:]]},
        manifest={"model_fingerprint": "0" * 16, "dtype": "bfloat16"},
    )
    same = write_night(tmp_path / "c", Night(seed=3), spec={"abstain_below": 0.4})
    values = compared(output, other, same)
    assert values["differences"] == [
        "a: the model is another one (rugpt3xl, here embedded)",
        "a: the data type is bfloat16, here float32",
        "all baselines: other settings (abstain_below 0.4, here none)",
        "a: other labels (only there war; only here politics), so that their shares are not tested",
    ]
    # The labels are compared with those of the baseline that has the same.
    assert values["questions"][""]["labels"]["same_labels"] == [False, True]
    assert values["questions"][""]["labels"]["is_tested"]
    assert not compared(output, other)["questions"][""]["labels"]["is_tested"]


def test_several_questions_have_figures_each(tmp_path: Path) -> None:
    def night(seed: int, shares: tuple[float, ...]) -> pa.Table:
        table = night_table(Night(seed=seed))
        tone = night_table(Night(seed=seed + 100, shares=shares, labels=("good", "bad")))
        renamed = table.rename_columns(
            ["id", "text", "gold", "topic", "topic_confidence", "topic_probabilities", "prompt_tokens", "error"]
        )
        renamed = renamed.append_column("tone", tone.column("label"))
        return renamed.append_column("tone_confidence", tone.column("confidence"))

    questions = {"topic": {"labels": list(LABELS)}, "tone": {"labels": "good,bad"}}
    spec = {"labels": None, "questions": questions}
    last = write_night(tmp_path / "a", night(1, (0.5, 0.5)), spec=spec)
    values = compared(write_night(tmp_path / "b", night(2, (0.2, 0.8)), spec=spec), last)
    assert values["changes"] == ["tone.labels"]
    assert values["verdict"][0].startswith("tone: more bad than in a: ")
    assert figure(values, "confidence", "topic")["finding"] == "chance"
    assert [each["question"] for each in values["changed_rows"]] == []


def test_tiny_and_empty_nights_tell_nothing(tmp_path: Path) -> None:
    last = write_night(tmp_path / "a", Night(seed=2))
    tiny = write_night(tmp_path / "tiny", Night(rows=12, shares=MORE_SPORT))
    assert compared(tiny, last)["verdict"] == [
        "Nothing can be told: 12 rows are too few to tell a change from chance (it takes 30).",
        "Fewer rows than in a: 12 instead of 350.",
    ]
    empty = write_night(tmp_path / "empty", Night(rows=0), parts=1, manifest={"parts": []})
    assert compared(empty, last)["verdict"] == ["Nothing can be compared: empty has no rows."]
    assert compared(last, empty)["verdict"] == ["Nothing can be compared: empty has no rows."]


def test_a_damaged_part_of_a_baseline_is_named(tmp_path: Path) -> None:
    last = Path(write_night(tmp_path / "a", Night(seed=2)))
    part = sorted(last.glob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a/part-00001-of-00002-12345678.parquet is damaged"):
        compared(write_night(tmp_path / "b", Night()), str(last))


def texts(rows: int, *, cut: float, tokens: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "prompt": [f"prompt {row}" for row in range(rows)],
            "completion": [" ".join(f"word{each}" for each in rng.integers(0, 900, 9)) for _ in range(rows)],
            "finish_reason": np.where(rng.random(rows) < cut, "length", "stop").tolist(),
            "prompt_tokens": pa.array([5] * rows, pa.int32()),
            "completion_tokens": pa.array(np.maximum(1, rng.normal(tokens, 9, rows)).astype(np.int32)),
            "error": pa.nulls(rows, pa.string()),
        }
    )


def test_generated_texts_are_compared_by_length_and_how_they_ended(tmp_path: Path) -> None:
    spec = {"prompt_column": "prompt", "labels": None}
    last = write_output(tmp_path / "a", texts(400, cut=0.1, tokens=40, seed=1), spec=spec, kind="generate")
    output = write_output(tmp_path / "b", texts(400, cut=0.5, tokens=60, seed=2), spec=spec, kind="generate")
    values = compared(output, last)
    assert values["changes"] == ["completion_length", "cut"]
    assert values["verdict"][0].startswith("Longer completions than in a: 59.4 tokens on average instead of 39.6")
    assert figure(values, "cut")["value"] == pytest.approx(0.5, abs=0.05)
    assert 0 < figure(values, "distinct_2")["value"] <= 1
    assert values["questions"] == {}


def test_scores_are_compared_by_bits_per_character(tmp_path: Path) -> None:
    def scores(bits: float, seed: int) -> pa.Table:
        rng = np.random.default_rng(seed)
        values = rng.normal(bits, 0.3, 300)
        return pa.table(
            {"text": [f"{row}" for row in range(300)], "num_tokens": [7] * 300, "bits_per_character": values}
        )

    spec = {"text_column": "text", "labels": None}
    last = write_output(tmp_path / "a", scores(2.0, 1), spec=spec, kind="score")
    output = write_output(tmp_path / "b", scores(2.4, 2), spec=spec, kind="score")
    values = compared(output, last)
    assert values["changes"] == ["bits_per_character"]
    assert figure(values, "bits_per_character")["value"] == pytest.approx(2.4, abs=0.05)
