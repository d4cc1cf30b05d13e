"""String views, which polars writes, may be texts, gold labels and keys of every command; the output has them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tirazh
from tests.system.tiny_model import write_tiny_model
from tirazh.pipeline.input.schemas.arrow_types import take

ROWS = {"text": ["Вчера", "Сегодня", "Завтра", "Вчера"], "gold": ["a", "b", None, "a"], "key": ["1", "2", "3", "4"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({name: pa.array(values, pa.string_view()) for name, values in ROWS.items()}), path)
    return path


def test_rows_of_a_table_are_taken() -> None:
    nested = pa.array([{"name": "x"}, {"name": "y"}], pa.struct([("name", pa.string_view())]))
    table = pa.table({"view": pa.array(["x", None], pa.string_view()), "nested": nested, "number": [1, 2]})
    taken = take(table, [1, 0, 1])
    assert taken.schema == table.schema
    assert taken.to_pylist() == [table.to_pylist()[row] for row in (1, 0, 1)]
    assert take(table, []).num_rows == 0


@pytest.mark.ray
def test_labels_are_counted_verified_calibrated_and_evaluated(
    source: Path, model: str, tmp_path: Path, ray_local: None
) -> None:
    output = tmp_path / "out"
    settings: dict[str, Any] = {"model": model, "dtype": "float32", "labels": ["a", "b"]}
    made = tirazh.classify(input=source, output=output, gold_column="gold", **settings)
    assert (made.rows, made.errors, made["gold_rows"]) == (4, 0, 3)
    assert tirazh.verify(output).is_whole
    (part,) = output.glob("part-*.parquet")
    assert pq.read_schema(part).field("text").type == pa.string_view()
    assert tirazh.evaluate(output, gold_column="gold").rows == 3
    gold = tmp_path / "gold.parquet"
    labels = pa.array(["a", "b"], pa.string_view())
    pq.write_table(pa.table({"key": pa.array(["4", "1"], pa.string()), "gold": labels}), gold)
    assert tirazh.evaluate(output, gold=gold, gold_label="gold", key="key").rows == 2


@pytest.mark.ray
def test_samples_of_a_row_are_verified(source: Path, model: str, tmp_path: Path, ray_local: None) -> None:
    output = tmp_path / "out"
    made = tirazh.generate(
        input=source, output=output, prompt_column="text", samples=2, max_new_tokens=2, model=model, dtype="float32"
    )
    assert (made.rows, made.errors) == (8, 0)
    assert tirazh.verify(output).is_whole
