"""The same job gives the same rows in every run, with any number of replicas, slots and rows in a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.command import read_rows
from tests.system.conftest import SAMPLING
from tirazh import classify, embed, generate

pytestmark = pytest.mark.ray


def run(source: Path, output: Path, model: str, **settings: Any) -> list[dict[str, object]]:
    manifest = generate(**{"input": source, "output": output, "model": model, **SAMPLING, **settings})
    rows = read_rows(output)
    assert manifest["rows"] == len(rows) == pq.read_metadata(source).num_rows
    return rows


@pytest.fixture
def source(prompts_file: Path) -> Path:
    return prompts_file


@pytest.fixture
def rows(sampled_rows: list[dict[str, object]]) -> list[Any]:
    return sampled_rows


def test_sampled_completions_differ_between_prompts(rows: list[Any]) -> None:
    assert len({row["completion"] for row in rows}) > len(rows) // 2
    assert all(row["error"] is None for row in rows)


def test_rows_keep_the_order_and_the_columns_of_the_input(rows: list[Any], prompts: pa.Table) -> None:
    assert [{"id": row["id"], "prompt": row["prompt"]} for row in rows] == prompts.to_pylist()


def test_rows_do_not_depend_on_replicas_slots_and_parts(
    rows: list[Any], source: Path, tiny_model: str, tmp_path: Path
) -> None:
    assert run(source, tmp_path / "out", tiny_model, replicas=2, slots=3, part_rows=17) == rows


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 8, 64])
def test_rows_do_not_depend_on_the_number_of_slots(
    rows: list[Any], source: Path, tiny_model: str, tmp_path: Path, slots: int
) -> None:
    assert run(source, tmp_path / "out", tiny_model, slots=slots) == rows


@pytest.mark.slow
def test_two_ranks_sample_the_same_completions(rows: list[Any], source: Path, tiny_model: str, tmp_path: Path) -> None:
    """Two ranks sum in another order, so logits differ in the last bits; no sample of this model is that close."""
    assert run(source, tmp_path / "out", tiny_model, tensor_parallel=2) == rows


@pytest.mark.slow  # tests/model/test_invariant_ranks.py says it of the logits
@pytest.mark.parametrize("kind", ["embed", "classify"])
def test_with_the_option_parts_that_two_ranks_make_again_have_the_bytes_of_one_rank(
    kind: str, source: Path, tiny_model: str, tmp_path: Path
) -> None:
    def run_with(ranks: int) -> dict[str, bytes]:
        settings: dict[str, Any] = {"input": source, "output": tmp_path / "out", "model": tiny_model, "slots": 8}
        settings |= {"text_column": "prompt", "part_rows": 30, "threads": 1, "dtype": "float32", "device": "cpu"}
        settings |= {"invariant": "tensor-parallel", "tensor_parallel": ranks}
        manifest = classify(labels=["спорт", "наука"], **settings) if kind == "classify" else embed(**settings)
        assert manifest["errors"] == 0
        return {path.name: path.read_bytes() for path in (tmp_path / "out").glob("part-*.parquet")}

    one = run_with(1)
    assert len(one) >= 4
    for name in sorted(one)[1:]:
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "_SUCCESS").unlink()
    assert run_with(2) == one


@pytest.mark.slow
def test_another_seed_gives_other_completions(rows: list[Any], source: Path, tiny_model: str, tmp_path: Path) -> None:
    others = run(source, tmp_path / "out", tiny_model, seed=8)
    assert [row["id"] for row in others] == [row["id"] for row in rows]
    assert sum(a["completion"] != b["completion"] for a, b in zip(rows, others, strict=True)) > len(rows) // 2
