"""`verify` checks that every input row is there exactly once; the manifest and the report summarise the job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tirazh.errors import JobError, OutputError
from tirazh.pipeline import schema
from tirazh.pipeline.classify_columns import answer_layouts
from tirazh.pipeline.columns import added_columns
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.output.assemble import OutputLayout
from tirazh.pipeline.output.ledger import finish, unfinished
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import write_plan
from tirazh.pipeline.output.receipt import ReceiptSettings
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.output.write import MadePart, WriteConfig, WriteStep
from tirazh.pipeline.plan import Plan, plan_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

LABELS = ("sport", "economics")


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> ClassifySpec:
    write_input("a.parquet", text=[f"text {n}" for n in range(30)], topic=["sport"] * 30)
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={label: label for label in LABELS},
        gold_column="topic",
        part_rows=10,
        max_error_rate=0.5,
    )


@pytest.fixture
def done(spec: ClassifySpec, model_dir: Path) -> tuple[Plan, OutputFiles]:
    """A finished job of three parts: each row is sport with a probability of 80 %, every third has an error."""
    output = OutputFiles(Storage(), spec.output)
    plan = plan_job(spec)
    layout = OutputLayout(columns=plan.schema, added=added_columns(spec), answers=answer_layouts(spec))
    step = WriteStep(
        WriteConfig(
            output=output,
            layout=layout,
            parts={part.index: MadePart.of(part) for part in plan.parts},
            tokenizer_dir=str(model_dir),
            receipts=ReceiptSettings.of({"kind": "classify", "prefix": "", "gold_column": "topic"}),
        )
    )
    write_plan(output, plan)
    for part in plan.parts:
        step(answer(read_part(part, output.storage, plan.schema)))
    finish(plan, output, spec, {"seconds": 2.0})
    return plan, output


def answer(table: pa.Table) -> pa.Table:
    rows = table.num_rows
    failed = [row % 3 == 0 for row in range(rows)]
    table = table.append_column(
        schema.ROW_ERROR, pa.array(["<b>bad</b>" if bad else None for bad in failed], pa.string())
    )
    table = table.append_column(schema.NUM_PROMPT_IDS, pa.array([5] * rows, pa.int32()))
    scores = [None if bad else [-0.223, -1.609] for bad in failed]
    return table.append_column(schema.LABEL_LOGPROBS, pa.array(scores, pa.list_(pa.float64())))


def problems(output: OutputFiles) -> tuple[str, ...]:
    return verify(output.directory).problems


def path_of(output: OutputFiles, plan: Plan, index: int) -> Path:
    return Path(output.part(plan.parts[index].name))


def test_a_complete_output_has_no_problems(done: tuple[Plan, OutputFiles]) -> None:
    found = verify(done[1].directory)
    assert found.is_whole
    assert (found.parts, found.parts_expected, found.rows, found.rows_expected) == (3, 3, 30, 30)


def test_a_missing_part_is_reported(done: tuple[Plan, OutputFiles]) -> None:
    plan, output = done
    path_of(output, plan, 1).unlink()
    assert problems(output) == (f"1 of 3 parts are missing: {plan.parts[1].name}",)
    assert [part.index for part in unfinished(plan, output)] == [1]


def test_a_part_copied_over_another_is_reported(done: tuple[Plan, OutputFiles]) -> None:
    plan, output = done
    path_of(output, plan, 1).write_bytes(path_of(output, plan, 0).read_bytes())
    assert problems(output) == (
        f"{plan.parts[1].name} is damaged or was changed: its SHA-256 does not match its receipt",
    )


def test_a_part_copied_over_another_with_its_receipt_is_reported(done: tuple[Plan, OutputFiles]) -> None:
    plan, output = done
    path_of(output, plan, 1).write_bytes(path_of(output, plan, 0).read_bytes())
    receipts = [Path(output.receipt(part.name)) for part in plan.parts]
    receipts[1].write_bytes(receipts[0].read_bytes())
    assert problems(output) == (f"{plan.parts[1].name} contains the rows of another part (part 0)",)


def test_a_single_changed_byte_is_reported(done: tuple[Plan, OutputFiles]) -> None:
    plan, output = done
    path = path_of(output, plan, 2)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert f"{plan.parts[2].name} is damaged or was changed" in problems(output)[0]


def test_a_foreign_file_is_reported(done: tuple[Plan, OutputFiles]) -> None:
    plan, output = done
    Path(output.part("copy of part-00001.parquet")).write_bytes(path_of(output, plan, 1).read_bytes())
    assert problems(output) == ("copy of part-00001.parquet is not a file of this job",)


@pytest.mark.parametrize("name", ["part-00000-of-00007.parquet", "part-00001-of-00003-0123abcd.parquet"])
def test_a_part_of_another_job_is_reported_and_does_not_count(done: tuple[Plan, OutputFiles], name: str) -> None:
    plan, output = done
    path_of(output, plan, 1).rename(output.part(name))
    assert problems(output)[0] == f"{name} belongs to another job"
    assert [part.index for part in unfinished(plan, output)] == [1]


def test_a_missing_success_file_is_reported(done: tuple[Plan, OutputFiles]) -> None:
    Path(done[1].part("_SUCCESS")).unlink()
    assert "_SUCCESS does not" in problems(done[1])[0]


def test_a_missing_receipt_is_reported(done: tuple[Plan, OutputFiles], spec: ClassifySpec) -> None:
    plan, output = done
    Path(output.receipt(plan.parts[0].name)).unlink()
    assert problems(output) == (f"{plan.parts[0].name} has no receipt in _tirazh/receipts",)
    with pytest.raises(JobError, match="is missing; run the same command again"):
        finish(plan, output, spec, {})


def test_a_directory_that_is_not_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is not the output of a job"):
        verify(str(tmp_path))


def test_the_manifest_sums_the_receipts(done: tuple[Plan, OutputFiles]) -> None:
    manifest = json.loads(Path(done[1].own("manifest.json")).read_text())
    assert (manifest["rows"], manifest["errors"], manifest["prompt_tokens"]) == (30, 12, 150)
    assert sum(part["rows"] for part in manifest["parts"]) == 30
    assert (manifest["accuracy"], manifest["macro_f1"], manifest["labels"]) == (1.0, 1.0, {"sport": 18})
    assert manifest["mean_confidence"] == pytest.approx(0.8, abs=0.001)
    assert manifest["spec"]["labels"] == {"sport": "sport", "economics": "economics"}


def test_the_report_escapes_values_from_the_data(done: tuple[Plan, OutputFiles]) -> None:
    page = Path(write_report(done[1].directory)).read_text()
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    assert "<b>bad" not in page
    assert "60.0\N{NO-BREAK SPACE}%" in page, "18 of the 30 rows have the label"
    assert "40.0\N{NO-BREAK SPACE}%" in page, "12 of the 30 rows have an error"
