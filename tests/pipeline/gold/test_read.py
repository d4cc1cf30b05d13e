"""Answers of finished outputs of every shape, with gold labels from the output or from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.pipeline.gold.outputs import LABELS, answers, probabilities, random_chances, write_output
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.pipeline.evaluation.evaluate import evaluate
from tirazh.pipeline.gold.read import GoldSource, read_labelled, read_predictions

CHANCES = random_chances(40)
GOLD = np.random.default_rng(1).integers(0, 3, 40)
NAMES = [LABELS[each] for each in GOLD]


def with_gold(table: pa.Table, gold: list[str | None] = NAMES) -> pa.Table:  # type: ignore[assignment]
    return table.append_column("gold", pa.array(gold, pa.string()))


def gold_file(path: Path, keys: pa.Array, labels: list[str | None] = NAMES) -> str:  # type: ignore[assignment]
    table = pa.table({"id": keys, "label": pa.array(labels, pa.string())})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    else:
        pq.write_table(table, path)
    return str(path)


@pytest.mark.parametrize("parts", [1, 7])
def test_the_predictions_are_those_of_the_rows_in_their_order(parts: int, tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", with_gold(answers(CHANCES, abstain_below=0.6)), parts=parts)
    found, counts = read_predictions(output, gold_column="gold")
    assert found.labels == LABELS
    assert found.gold.tolist() == GOLD.tolist()
    assert found.probabilities == pytest.approx(CHANCES)
    assert found.confidence == pytest.approx(CHANCES.max(axis=1))
    assert found.chosen.tolist() == np.where(CHANCES.max(axis=1) < 0.6, -1, CHANCES.argmax(axis=1)).tolist()
    assert found.winners is not None
    assert found.winners.tolist() == CHANCES.argmax(axis=1).tolist()
    assert (counts.rows, counts.evaluated, counts.without_gold) == (40, 40, 0)


def test_the_gold_column_of_the_job_is_the_default(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", with_gold(answers(CHANCES)), spec={"gold_column": "gold"})
    assert read_predictions(output)[1].evaluated == 40


def test_the_shapes_of_an_output_give_the_same_predictions(tmp_path: Path) -> None:
    plain = with_gold(answers(CHANCES, abstain_below=0.6))
    expected, _ = read_predictions(write_output(tmp_path / "plain", plain), gold_column="gold")
    added = {"label": "t_label", "confidence": "t_confidence", "probabilities": "t_probabilities", "error": "t_error"}
    question = added | {"label": "topic", "confidence": "topic_confidence", "probabilities": "topic_probabilities"}
    decision = plain.set_column(1, "choice", pa.array([LABELS[each] for each in CHANCES.argmax(axis=1)]))
    decision = decision.append_column("abstained", pa.array(CHANCES.max(axis=1) < 0.6))
    shapes: dict[str, tuple[pa.Table, dict[str, Any], str | None]] = {
        "prefix": (_renamed(plain, added), {"prefix": "t_"}, None),
        "question": (
            _renamed(plain, question | {"error": "error"}),
            {"labels": None, "questions": {"topic": {"labels": list(LABELS), "gold_column": "gold"}}},
            "topic",
        ),
        "decision": (decision, {"shape": "decision"}, None),
        "empty choice": (plain.rename_columns({"label": "choice"}), {"shape": "decision"}, None),
    }
    for name, (table, spec, asked) in shapes.items():
        found, _ = read_predictions(
            write_output(tmp_path / name, table, spec=spec), gold_column=None if asked else "gold", question=asked
        )
        assert found.chosen.tolist() == expected.chosen.tolist(), name
        assert found.gold.tolist() == expected.gold.tolist(), name
        assert found.probabilities == pytest.approx(expected.probabilities), name


def test_one_of_several_questions_must_be_named(tmp_path: Path) -> None:
    questions = {"topic": {"labels": list(LABELS)}, "tone": {"labels": "good,bad"}}
    table = _renamed(with_gold(answers(CHANCES)), {"label": "topic"})
    output = write_output(tmp_path / "out", table, spec={"questions": questions})
    with pytest.raises(RequestError, match="choose one with --question, of topic, tone"):
        read_predictions(output, gold_column="gold")
    with pytest.raises(RequestError, match="no question 'topik'; did you mean topic"):
        read_predictions(output, gold_column="gold", question="topik")


def test_the_most_likely_labels_alone_are_enough_for_all_but_the_losses(tmp_path: Path) -> None:
    whole = with_gold(answers(CHANCES, abstain_below=0.6))
    top = whole.set_column(3, "probabilities", probabilities(CHANCES, top=2))
    first, _ = read_predictions(write_output(tmp_path / "whole", whole), gold_column="gold")
    second, _ = read_predictions(write_output(tmp_path / "top", top), gold_column="gold")
    assert np.isnan(second.probabilities).sum() == 40
    expected, found = evaluate(first), evaluate(second)
    assert (found.ece, found.macro_f1, found.brier) == (expected.ece, expected.macro_f1, None)


def test_an_output_without_probabilities_has_labels(tmp_path: Path) -> None:
    table = with_gold(answers(CHANCES)).drop_columns(["probabilities", "confidence"])
    found, _ = read_predictions(write_output(tmp_path / "out", table), gold_column="gold")
    assert found.probabilities is None
    assert evaluate(found).ece is None
    assert evaluate(found).accuracy == np.mean(GOLD == CHANCES.argmax(axis=1))


def test_rows_with_an_error_or_without_a_known_gold_label_are_counted_apart(tmp_path: Path) -> None:
    gold: list[str | None] = [*NAMES]
    gold[0], gold[1], gold[2], gold[3] = None, "", "weather", "weather"
    table = with_gold(answers(CHANCES), gold)
    table = table.set_column(4, "error", pa.array(["too long" if row in (3, 4, 5) else None for row in range(40)]))
    found, counts = read_predictions(write_output(tmp_path / "out", table, parts=3), gold_column="gold")
    assert (counts.rows, counts.evaluated, counts.errors) == (40, 34, 3)
    assert (counts.without_gold, counts.unknown_gold, counts.unknown_labels) == (2, 1, {"weather": 1})
    assert found.gold[:6].tolist() == [-1] * 6
    assert found.chosen[3:6].tolist() == [-1] * 3


def test_a_label_that_means_none_of_the_others_is_an_answer_where_it_is_the_gold_label(tmp_path: Path) -> None:
    chances = np.array([[0.1, 0.1, 0.8], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], np.float32)
    table = answers(chances).set_column(1, "label", pa.array([None, None, "economics"], pa.string()))
    table = with_gold(table, ["culture", "sport", "economics"])
    output = write_output(tmp_path / "out", table, spec={"none_label": "culture"})
    assert read_predictions(output, gold_column="gold")[0].chosen.tolist() == [2, -1, 0]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint64(), pa.string()], ids=str)
def test_gold_labels_are_found_by_their_key(ending: str, kind: pa.DataType, tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", answers(CHANCES), parts=3)
    order = np.random.default_rng(2).permutation(40)
    keys = pa.array(order).cast(kind)
    gold = gold_file(tmp_path / f"gold.{ending}", keys, [NAMES[each] for each in order])
    found, counts = read_predictions(output, gold=gold, key="id")
    assert found.gold.tolist() == GOLD.tolist()
    assert (counts.evaluated, counts.gold_keys_without_row) == (40, 0)


def test_keys_on_one_side_only_and_repeated_ones_are_counted(tmp_path: Path) -> None:
    table = answers(CHANCES)
    table = table.set_column(0, "id", pa.array([*range(38), 37, None], pa.int32()))
    output = write_output(tmp_path / "out", table)
    keys = pa.array([0, 0, 1, 37, 99, None])
    gold = gold_file(tmp_path / "gold.parquet", keys, ["sport", "sport", "culture", "sport", "sport", "sport"])
    found, counts = read_predictions(output, gold=gold, key="id")
    assert np.flatnonzero(found.gold >= 0).tolist() == [0, 1, 37, 38]
    assert (counts.evaluated, counts.without_gold) == (4, 36)
    assert (counts.repeated_gold_keys, counts.gold_keys_without_row, counts.repeated_row_keys) == (1, 1, 1)


def test_a_key_with_two_gold_labels_is_refused_by_its_name(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", answers(CHANCES))
    gold = gold_file(tmp_path / "gold.parquet", pa.array([3, 5, 5]), ["sport", "sport", "culture"])
    with pytest.raises(InputError, match=r"1 keys with different gold labels, such as id 5 with 'culture' and 'sport'"):
        read_predictions(output, gold=gold, key="id")


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", with_gold(answers(CHANCES)))
    gold = gold_file(tmp_path / "gold.parquet", pa.array(range(40)))
    for settings, says in (
        ({"gold_column": "golt"}, r"--gold-column: .*out has no column 'golt'; did you mean gold"),
        ({"gold": gold, "key": "uid"}, r"--key: .*out has no column 'uid'; did you mean id"),
        ({"gold": gold, "key": "confidence"}, r"--key: .*gold.parquet has no column 'confidence'; its columns are"),
        (
            {"gold": gold, "key": "id", "gold_label": "labl"},
            r"--gold-label: .*has no column 'labl'; did you mean label",
        ),
        ({"gold": str(tmp_path / "nowhere.parquet"), "key": "id"}, r"nowhere.parquet does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            read_predictions(output, **settings)


def test_contradicting_sources_of_gold_labels_are_refused() -> None:
    with pytest.raises(RequestError, match="give one of them"):
        GoldSource(file="gold.csv", key="id", column="gold")
    with pytest.raises(RequestError, match="--gold needs --key"):
        GoldSource(file="gold.csv")
    with pytest.raises(RequestError, match="names a column of the gold file"):
        GoldSource(label="gold")


def test_floating_point_keys_are_refused(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", answers(CHANCES))
    gold = gold_file(tmp_path / "gold.parquet", pa.array([0.5, 1.5]), ["sport", "sport"])
    with pytest.raises(InputError, match="the keys are of type int32 in the output and double in"):
        read_predictions(output, gold=gold, key="id")


def test_outputs_that_cannot_be_evaluated_are_refused(tmp_path: Path) -> None:
    table = with_gold(answers(CHANCES))
    source = GoldSource(column="gold")
    unfinished = write_output(tmp_path / "unfinished", table, is_finished=False)
    with pytest.raises(OutputError, match="is not finished; run its job again first"):
        read_labelled(unfinished, source)
    with pytest.raises(OutputError, match="is an output of generate; only those of classify have labels"):
        read_labelled(write_output(tmp_path / "texts", table, kind="generate"), source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="is not the output of a job"):
        read_labelled(str(tmp_path / "empty"), source)
    with pytest.raises(RequestError, match="has no gold labels: its job had no --gold-column"):
        read_labelled(write_output(tmp_path / "plain", table), GoldSource())


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    output = Path(write_output(tmp_path / "out", with_gold(answers(CHANCES)), parts=2))
    part = sorted(output.glob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00001-of-00002-12345678.parquet is damaged"):
        read_predictions(str(output), gold_column="gold")


def _renamed(table: pa.Table, names: dict[str, str]) -> pa.Table:
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def test_a_row_that_was_answered_with_a_level_above_the_labels_has_no_answer(tmp_path: Path) -> None:
    labels = ("sport/football", "sport/hockey", "art")
    table = answers(np.array([[0.4, 0.35, 0.25], [0.1, 0.2, 0.7]], np.float32), labels)
    table = table.set_column(1, "label", pa.array(["sport", "art"]))
    table = table.append_column("gold", pa.array(["sport/hockey", "art"]))
    output = write_output(tmp_path / "out", table, spec={"labels": dict.fromkeys(labels)})
    found, _ = read_predictions(output, gold_column="gold")
    assert found.chosen.tolist() == [-1, 2]
