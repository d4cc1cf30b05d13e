"""`verify` names every damage of an output and every change of its input, and nothing that is no problem."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.output.verify import Verification, verify
from tirazh.pipeline.spec import ClassifySpec

ROWS, PARTS = 8, 4


@dataclass(frozen=True)
class Job:
    """A finished job of two files of four rows, in four parts."""

    spec: ClassifySpec

    @property
    def input(self) -> Path:
        return Path(self.spec.input[0])

    @property
    def output(self) -> Path:
        return Path(self.spec.output)

    @property
    def parts(self) -> list[Path]:
        return sorted(self.output.glob("part-*.parquet"))

    def own(self, name: str) -> Path:
        return self.output / "_tirazh" / name

    def edit(self, name: str, **values: Any) -> None:
        """Change values of a JSON file without updating its checksum."""
        path = self.own(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | values, ensure_ascii=False, indent=1))

    def verify(self, **options: Any) -> Verification:
        return verify(str(self.output), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in").mkdir()
    for name in ("a", "b"):
        texts = [f"text {name}{row}" for row in range(ROWS // 2)]
        pq.write_table(pa.table({"text": texts, "topic": ["sport"] * 4}), folder / "in" / f"{name}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        run_without_ray(patch)
        run_job(spec_in(folder, model_dir))
    return folder


def spec_in(folder: Path, model_dir: Path) -> ClassifySpec:
    return ClassifySpec(
        input=(str(folder / "in"),),
        output=str(folder / "out"),
        model=str(model_dir),
        labels={label: label for label in ("sport", "economics")},
        gold_column="topic",
        dtype="float32",
        part_rows=2,
    )


@pytest.fixture
def job(finished: Path, model_dir: Path) -> Iterator[Job]:
    """The finished job, restored after the test: its plan names its absolute paths."""
    saved = finished.parent / f"{finished.name}-saved"
    copy(finished, saved)
    yield Job(spec_in(finished, model_dir))
    copy(saved, finished)
    shutil.rmtree(saved)


def copy(source: Path, target: Path) -> None:
    """Copy files with their times; the change times differ, as after a backup."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def rewrite(path: Path, **columns: Any) -> None:
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)


def test_an_intact_output_has_no_problems(job: Job) -> None:
    found = job.verify()
    assert found.problems == ()
    assert (found.parts, found.parts_expected, found.rows, found.rows_expected) == (PARTS, PARTS, ROWS, ROWS)


DAMAGES: dict[str, tuple[Callable[[Job], object], str]] = {
    "row of the input edited": (
        lambda job: rewrite(job.input / "a.parquet", text=["text a0", "text a1", "EDITED!", "text a3"]),
        "in/a.parquet has changed since the job ran: row 2 differs in column 'text'",
    ),
    "rows of the input appended": (
        lambda job: pq.write_table(
            pa.concat_tables([pq.read_table(job.input / "a.parquet")] * 2), job.input / "a.parquet"
        ),
        "in/a.parquet has changed since the job ran: it has 8 rows instead of 4",
    ),
    "file of the input removed": (
        lambda job: (job.input / "b.parquet").unlink(),
        "in/b.parquet has been removed since the job was planned",
    ),
    "whole input removed": (lambda job: shutil.rmtree(job.input), "in/a.parquet has been removed since"),
    "file added beside the input": (
        lambda job: shutil.copy(job.input / "b.parquet", job.input / "late.parquet"),
        "in/late.parquet was added since the job was planned: its rows are not in this output",
    ),
    "part copied into a subdirectory": (
        lambda job: ((job.output / "sub").mkdir(), shutil.copy(job.parts[0], job.output / "sub")),
        "is not a file of this job",
    ),
    "part copied to a hidden name": (
        lambda job: shutil.copy(job.parts[0], job.output / "_copy.parquet"),
        "_copy.parquet is not a file of this job",
    ),
    "part copied into _tirazh": (
        lambda job: shutil.copy(job.parts[0], job.own("copy.parquet")),
        "_tirazh/copy.parquet is not a file of this job",
    ),
    "part of another plan": (
        lambda job: shutil.copy(job.parts[0], job.output / "part-00000-of-00004-0123abcd.parquet"),
        "part-00000-of-00004-0123abcd.parquet belongs to another job",
    ),
    "manifest removed": (lambda job: job.own("manifest.json").unlink(), "_tirazh/manifest.json is missing"),
    "manifest not JSON": (lambda job: job.own("manifest.json").write_text("{"), "it is not JSON"),
    "manifest a list": (lambda job: job.own("manifest.json").write_text("[1]"), "manifest.json is damaged"),
    "manifest with other rows": (lambda job: job.edit("manifest.json", rows=999_999), "manifest.json is damaged"),
    "manifest with another accuracy": (lambda job: job.edit("manifest.json", accuracy=0.999), "manifest.json is"),
    "report removed": (lambda job: job.own("report.html").unlink(), "_tirazh/report.html is missing"),
    "report changed": (lambda job: flip(job.own("report.html"), 500), "report.html is damaged or was changed"),
    "plan removed": (lambda job: job.own("plan.json").unlink(), "_tirazh/plan.json is missing"),
    "plan changed": (lambda job: job.edit("plan.json", rows=9), "_tirazh/plan.json is damaged or was changed"),
    "file lost from the plan": (lambda job: job.edit("plan.json", files=[]), "_tirazh/plan.json is damaged"),
    "receipt with other errors": (
        lambda job: job.edit(f"receipts/{job.parts[0].stem}.json", errors=1),
        "is damaged or was changed",
    ),
    "receipt a list": (
        lambda job: job.own(f"receipts/{job.parts[0].stem}.json").write_text("[]"),
        "is damaged (TypeError)",
    ),
    "success of another plan": (
        lambda job: (job.output / "_SUCCESS").write_text("0" * 32),
        "_SUCCESS does not name the plan of this output",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_is_named(job: Job, damage: Callable[[Job], object], sentence: str) -> None:
    damage(job)
    assert sentence in "\n".join(job.verify().problems)


def test_labels_rewritten_together_with_the_receipt_do_not_agree_with_the_manifest(job: Job) -> None:
    """Not a signature: who also rewrites the manifest and its checksum is not found out."""
    from tirazh.pipeline.output.receipt import FOOTER_KEY, ReceiptSettings, make_receipt

    path = job.parts[0]
    table = pq.read_table(path)
    rewrite(path, label=["economics"] * 2)
    written = pq.read_table(path).replace_schema_metadata({FOOTER_KEY: table.schema.metadata[FOOTER_KEY]})
    pq.write_table(written, path)
    receipt = make_receipt(
        path.read_bytes(), ReceiptSettings.of({"kind": "classify", "prefix": "", "gold_column": "topic"})
    )
    job.own(f"receipts/{path.stem}.json").write_bytes(receipt.to_json())
    assert "manifest.json does not agree with the plan and the receipts in labels" in job.verify().problems[0]


def test_an_input_that_was_touched_or_uploaded_again_is_only_noted(job: Job) -> None:
    os.utime(job.input / "a.parquet", (1, 1))
    table = pq.read_table(job.input / "b.parquet")
    pq.write_table(table, job.input / "b.parquet", compression="zstd", row_group_size=1)
    found = job.verify()
    assert found.problems == ()
    assert sum("written again with the same rows" in note for note in found.notes) == 2


def test_an_archived_input_is_not_compared_on_request(job: Job) -> None:
    shutil.rmtree(job.input)
    assert job.verify(skip_input=True).problems == ()
    assert not job.verify().is_whole


def test_an_empty_file_beside_the_input_is_no_problem(job: Job) -> None:
    pq.write_table(pq.read_table(job.input / "a.parquet").slice(0, 0), job.input / "empty.parquet")
    assert job.verify().problems == ()


def test_files_that_no_reader_takes_for_data_are_no_problem(job: Job) -> None:
    (job.output / ".part.parquet.crc").write_text("x")
    job.own("logs").mkdir(exist_ok=True)
    job.own("logs/run.log").write_text("x")
    job.own("staged/_tirazh").mkdir(parents=True)
    shutil.copy(job.parts[0], job.own("staged"))
    temporary = job.output / f".{job.parts[0].name}.{'0' * 32}.tmp"
    temporary.write_text("x")
    found = job.verify()
    assert found.problems == ()
    assert any("temporary file" in note for note in found.notes)
    assert any("_tirazh/staged holds the unfinished output" in note for note in found.notes)


def test_a_report_with_a_comparison_is_an_intact_report(job: Job) -> None:
    write_report(str(job.output), comparison=Markup("<p>like the last one</p>"))
    assert "like the last one" in job.own("report.html").read_text()
    assert job.verify().problems == ()


def test_an_output_without_its_last_step_is_not_whole(job: Job) -> None:
    (job.output / "_SUCCESS").unlink()
    assert job.verify().problems == (
        "all parts exist, but _SUCCESS does not: the job stopped before its last step; run it again",
    )


def test_a_directory_that_is_not_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is not the output of a job"):
        verify(str(tmp_path))


def test_rows_behind_the_limit_are_not_missed(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_without_ray(monkeypatch)
    limited = Job(replace(job.spec, limit=3, output=str(tmp_path / "limited")))
    run_job(limited.spec)
    assert limited.verify().problems == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_of_any_file_is_reported(job: Job, data: st.DataObject) -> None:
    own = [job.own(name) for name in ("plan.json", "manifest.json", "report.html")]
    receipts = sorted(job.own("receipts").iterdir())
    path = data.draw(st.sampled_from([*job.parts, *receipts, *own, job.output / "_SUCCESS"]))
    before = path.read_bytes()
    kind = data.draw(st.sampled_from(["remove", "flip", "cut", "append", "insert"] if before else ["remove", "append"]))
    position = data.draw(st.integers(0, max(0, len(before) - 1)))
    byte = data.draw(st.integers(0, 255))
    after = {
        "flip": before[:position] + bytes([before[position] ^ (byte or 1)]) + before[position + 1 :] if before else b"",
        "cut": before[:position],
        "append": before + bytes([byte]),
        "insert": before[:position] + bytes([byte]) + before[position:],
    }
    try:
        if kind == "remove":
            path.unlink()
        else:
            path.write_bytes(after[kind])
        found = job.verify()
        assert found.problems, f"{kind} of {path.name} at {position}"
        assert all("\n" not in problem for problem in found.problems)
    finally:
        path.write_bytes(before)
    assert job.verify(skip_input=True).problems == ()
