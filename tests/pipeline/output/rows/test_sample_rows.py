"""Every sample is a row: the samples of an input row together and in order, whatever the size of the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.without_ray import echo_seeds, run_without_ray
from tirazh.errors import OutputError
from tirazh.model.requests import Completion
from tirazh.pipeline import schema
from tirazh.pipeline.build import run_job
from tirazh.pipeline.execution.progress import ProgressEvent
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.receipt import ReceiptSettings, make_receipt
from tirazh.pipeline.output.rows import sample_rows as module
from tirazh.pipeline.output.rows.sample_rows import sample_rows
from tirazh.pipeline.output.rows.source_rows import read_source_rows
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import GenerateSpec

SAMPLES = 3


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> GenerateSpec:
    """Five rows in two parts, of which the one without a text is an error."""
    write_input("a.parquet", prompt=["a", "b", None, "d", "a"], id=range(5))
    return GenerateSpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        max_new_tokens=4,
        samples=SAMPLES,
        part_rows=3,
        max_error_rate=0.5,
        dtype="float32",
    )


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    run_without_ray(monkeypatch)


def rows_of(spec: GenerateSpec) -> list[dict[str, Any]]:
    return [row for part in parts_of(spec) for row in pq.read_table(part).to_pylist()]


def parts_of(spec: GenerateSpec) -> list[Path]:
    return sorted(Path(spec.output).glob("part-*.parquet"))


def test_a_row_is_followed_by_its_other_samples_and_keeps_its_columns(spec: GenerateSpec) -> None:
    manifest = run_job(spec)
    rows = rows_of(spec)
    assert list(rows[0]) == [
        *(
            "prompt",
            "id",
            "sample",
            "completion",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "logprob",
            "error",
        ),
    ]
    assert [(row["id"], row["sample"]) for row in rows] == [(i, s) for i in range(5) for s in range(SAMPLES)]
    assert [row["prompt"] for row in rows[:4]] == ["a", "a", "a", "b"]
    assert {row["completion"] is None for row in rows if row["id"] == 2} == {True}
    assert {row["error"] for row in rows if row["id"] == 2} == {"column 'prompt' is null"}
    assert len({row["completion"] for row in rows if row["error"] is None}) == 12
    assert (manifest["rows"], manifest["errors"], manifest["input_rows"]) == (15, 3, 5)
    assert [part["rows"] for part in manifest["parts"]] == [9, 6]
    found = verify(spec.output)
    assert (found.rows, found.rows_expected, found.problems) == (15, 15, ())


def test_lists_have_the_same_texts(spec: GenerateSpec, tmp_path: Path) -> None:
    run_job(spec)
    lists = replace(spec, samples_as="lists", output=str(tmp_path / "lists"))
    manifest = run_job(lists)
    assert (manifest["rows"], manifest["rows_per_input_row"]) == (5, 1)
    texts = [text for row in rows_of(lists) for text in row["completions"] or [None] * SAMPLES]
    assert texts == [row["completion"] for row in rows_of(spec)]


def test_one_sample_is_the_same_job_as_rows_and_as_lists(spec: GenerateSpec) -> None:
    one = replace(spec, samples=1)
    run_job(one)
    assert "sample" not in rows_of(one)[0]
    assert run_job(replace(one, samples_as="lists"))["rows"] == 5
    with pytest.raises(OutputError, match="--samples-as differs"):
        run_job(replace(one, samples=2, samples_as="lists", output=run_and_name(replace(spec, samples=2))))


def run_and_name(spec: GenerateSpec) -> str:
    chosen = replace(spec, output=f"{spec.output}-{spec.samples}")
    run_job(chosen)
    return chosen.output


def test_a_sample_that_fails_is_an_error_of_its_own_row(spec: GenerateSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(run: JobRun, requests: Any) -> list[Completion]:
        good = echo_seeds(run, requests)
        good[4] = Completion(token_ids=(), finish_reason="error", error="not finite")
        return good

    run_without_ray(monkeypatch, answer)
    run_job(replace(spec, part_rows=5))
    rows = rows_of(spec)
    assert [row["error"] for row in rows[3:6]] == [None, "not finite", None]
    assert (rows[4]["completion"], rows[4]["finish_reason"], rows[4]["completion_tokens"]) == (None, "error", None)
    assert rows[3]["completion"]
    assert rows[5]["completion"]


def test_progress_counts_output_rows(spec: GenerateSpec) -> None:
    events: list[ProgressEvent] = []
    run_job(spec, on_progress=events.append)
    answering = [event for event in events if event.waiting_for != "Ray"]
    assert [(event.rows_done, event.rows_total) for event in answering] == [(9, 15), (15, 15)]


def test_a_resume_makes_only_the_missing_part(spec: GenerateSpec) -> None:
    run_job(spec)
    before = {part: part.read_bytes() for part in parts_of(spec)}
    parts_of(spec)[0].unlink()
    assert run_job(spec)["rows"] == 15
    assert {part: part.read_bytes() for part in parts_of(spec)} == before


def test_an_input_written_again_is_compared_with_the_rows_that_were_kept(spec: GenerateSpec) -> None:
    run_job(spec)
    source = Path(spec.input[0]) / "a.parquet"
    pq.write_table(pq.read_table(source), source, compression="none")
    assert verify(spec.output).problems == ()
    assert run_job(spec)["rows"] == 15
    pq.write_table(pq.read_table(source).set_column(1, "id", pa.array([0, 1, 2, 3, 9])), source)
    (problem,) = verify(spec.output).problems
    assert "row 4 differs in column 'id'" in problem


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda rows: [*rows[:4], *rows[5:]], " has 8 rows instead of 9"),
        (lambda rows: [*rows[:5], *rows[4:]], " has 10 rows instead of 9"),
        (lambda rows: [*rows[:5], *rows[4:8]], "row 5 has sample 1 instead of 2"),
        (lambda rows: swapped(rows, 3, 4), "row 3 has sample 1 instead of 0"),
        (lambda rows: swapped(rows, 1, 4), "row 1 is a sample of another input row than row 0"),
    ],
)
def test_verify_finds_a_sample_that_is_lost_doubled_or_swapped(
    spec: GenerateSpec, damage: Callable[[list[int]], list[int]], problem: str
) -> None:
    """Also where the receipt was made of the damaged file, as by a fault of ours."""
    run_job(spec)
    part = parts_of(spec)[0]
    order = damage(list(range(9)))
    table = pq.read_table(part).take(pa.array(order))
    footer = pq.read_schema(part).metadata
    pq.write_table(table.replace_schema_metadata(footer), part, compression="zstd")
    receipt = next((Path(spec.output) / "_tirazh/receipts").glob(f"{part.stem}*"))
    receipt.write_bytes(
        make_receipt(part.read_bytes(), ReceiptSettings.of({"kind": "generate", "prefix": ""})).to_json()
    )
    assert any(problem in found for found in verify(spec.output).problems), verify(spec.output).problems


def swapped(rows: list[int], one: int, other: int) -> list[int]:
    rows[one], rows[other] = rows[other], rows[one]
    return rows


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=12),
    samples=st.integers(2, 5),
    part_rows=st.integers(1, 12),
    at_once=st.integers(1, 8),
)
def test_all_samples_are_there_once_and_in_order(
    spec: GenerateSpec, tmp_path: Path, rows: list[str | None], samples: int, part_rows: int, at_once: int
) -> None:
    name = hashlib.sha256(repr((rows, samples, part_rows, at_once)).encode()).hexdigest()[:12]
    (tmp_path / name).mkdir(exist_ok=True)
    table = pa.table({"prompt": pa.array(rows, pa.string()), "id": range(len(rows))})
    pq.write_table(table, tmp_path / name / "a.parquet")
    job = replace(spec, input=(str(tmp_path / name),), samples=samples, max_error_rate=1.0)
    texts = []
    for size, most in ((part_rows, at_once), (100, module.MAX_ROWS)):
        chosen = replace(job, output=str(tmp_path / f"{name}-{size}"), part_rows=size)
        with patch.object(module, "MAX_ROWS", most):
            run_job(chosen)
        found = rows_of(chosen)
        assert [(row["id"], row["sample"]) for row in found] == [
            (i, s) for i in range(len(rows)) for s in range(samples)
        ]
        assert [row["prompt"] for row in found] == [text for text in rows for _ in range(samples)]
        assert verify(chosen.output).problems == ()
        texts.append([row["completion"] for row in found])
    assert texts[0] == texts[1]


def test_a_wide_row_is_repeated_a_bounded_number_of_times_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    table = pa.table({"wide": ["x" * 100_000, "y" * 100_000], schema.ROW_ERROR: pa.array([None, None], pa.string())})
    sizes = [rows.nbytes for rows in sample_rows(table, 64)]
    assert len(sizes) == 16
    assert max(sizes) < 1 << 20


def test_the_rows_that_a_file_was_made_of_are_read_back(spec: GenerateSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups may end between the samples of a row."""
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    run_job(replace(spec, part_rows=5))
    (part,) = parts_of(spec)
    assert pq.read_metadata(part).num_row_groups == 8
    kept = read_source_rows(part.read_bytes(), ["prompt", "id"], SAMPLES)
    assert kept.equals(pq.read_table(Path(spec.input[0]) / "a.parquet"))
