"""Output directories whose plan, manifest or receipts were changed by another program or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.mutations import mutants
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import choose_target, read_plan, write_plan
from tirazh.pipeline.output.receipt import Receipt
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.storage.filesystem import Storage

DEEP = "[" * 50_000


@pytest.fixture(scope="module")
def unfinished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an input file and an output of one part, receipt, plan and manifest."""
    folder = tmp_path_factory.mktemp("unfinished")
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), folder / "in.parquet")
    paths = {"input": str(folder / "in.parquet"), "output": str(folder / "out"), "model": str(tiny_model)}
    plan = plan_job(build_spec("classify", {**paths, "labels": "a,b", "dtype": "float32"}))
    output = OutputFiles(Storage(), str(folder / "out"))
    write_plan(output, plan)
    Storage().write(output.part(plan.parts[0].name), (folder / "in.parquet").read_bytes())
    receipt = {"part": 0, "rows": 3, "errors": 0, "prompt_tokens": 1, "completion_tokens": 0, "file_bytes": 1}
    Storage().write(output.receipt(plan.parts[0].name), json.dumps(receipt | {"sha256": "0", "confusion": []}).encode())
    Storage().write(output.own("manifest.json"), json.dumps({"kind": "classify", "output": "x", "spec": {}}).encode())
    return folder


@pytest.fixture
def out(unfinished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unfinished / "out", tmp_path / "out")


CHANGES: dict[str, Any] = {
    "an unknown format": {"format": 3},
    "an earlier format": {"format": 1},
    "another plan id": {"plan_id": "0" * 32},
    "a format that is a list": {"format": [1]},
    "an empty list of files": {"files": []},
    "files that are numbers": {"files": [1, 2]},
    "a file with missing fields": {"files": [["a", "b"]]},
    "cuts that are strings": {"files": [["a", "a", 1, "v", ["0", "3"]]]},
    "cuts in descending order": {"files": [["a", "a", 1, "v", [3, 0]]]},
    "a cut beyond 64 bits": {"files": [["a", "a", 1, "v", [0, 10**30]]]},
    "a path that leaves the directory": {"files": [["../../etc/passwd", "../x", 1, "v", [0, 3]]]},
    "a schema of zero bytes": {"arrow_schema": "AAAA"},
    "a schema that is not base64": {"arrow_schema": "***"},
    "a schema that is a number": {"arrow_schema": 7},
    "an identity that is a list": {"identity": []},
    "an identity that is a string": {"identity": "x"},
    "overrides that are a number": {"overrides": 7},
    "a seq_length that is a string": {"seq_length": "x"},
    "an unknown dtype": {"dtype": "float9"},
    "a fingerprint that is a list": {"fingerprint": []},
    "null in all fields": dict.fromkeys(("format", "files", "identity", "arrow_schema", "overrides")),
}
CONTENTS = {
    "an empty file": "",
    "null": "null",
    "a list": "[]",
    "a number": "7",
    "a string": '"x"',
    "truncated": '{"format": 1,',
    "deep lists": DEEP,
    "a huge number": '{"format": ' + "9" * 5_000 + "}",
    "a lone surrogate": '{"format": 1, "identity": {"input": "\\ud800"}}',
}


def resume_and_verify(out: Path, unfinished: Path) -> None:
    """Resume and verify the output directory `out`."""
    output = OutputFiles(Storage(), str(out))
    plan = read_plan(output)
    assert plan is not None
    paths = {"input": str(unfinished / "in.parquet"), "output": str(out), "model": str(plan.identity["model"])}
    choose_target(
        output, plan_job(build_spec("classify", {**paths, "labels": "a,b", "dtype": "float32"})), overwrite=False
    )
    verify(str(out))


def change_fields(path: Path, changes: dict[str, Any]) -> bytes:
    content = json.dumps(json.loads(path.read_text()) | changes).encode()
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_plan_works_or_is_refused(name: str, out: Path, unfinished: Path) -> None:
    content = change_fields(out / "_tirazh/plan.json", CHANGES[name])
    attempt("output directories", content, lambda: resume_and_verify(out, unfinished))


@pytest.mark.parametrize("name", CONTENTS)
def test_a_malformed_plan_is_refused(name: str, out: Path, unfinished: Path) -> None:
    (out / "_tirazh/plan.json").write_text(CONTENTS[name])
    refusal("output directories", "plan " + CONTENTS[name], lambda: resume_and_verify(out, unfinished))


@pytest.mark.parametrize("name", CONTENTS)
def test_a_report_of_a_malformed_manifest_is_refused(name: str, out: Path) -> None:
    (out / "_tirazh/manifest.json").write_text(CONTENTS[name])
    refusal("output directories", "manifest " + CONTENTS[name], lambda: write_report(str(out)))


RECEIPTS = {
    **CONTENTS,
    "no fields": "{}",
    "an unknown field": json.dumps({"part": 0, "rows": 1, "confusion": [], "evil": 1}),
    "a confusion that is a list of numbers": json.dumps({"confusion": [1, 2]}),
    "a confusion that is null": json.dumps({"confusion": None}),
}


@pytest.mark.parametrize("name", RECEIPTS)
def test_verify_refuses_or_reports_a_malformed_receipt(name: str, out: Path) -> None:
    (path,) = (out / "_tirazh/receipts").iterdir()
    path.write_text(RECEIPTS[name])
    found: list[Any] = []
    attempt("output directories", "receipt " + RECEIPTS[name], lambda: found.append(verify(str(out))))
    assert not found or "receipt" in " ".join(found[0].problems)


def test_randomly_damaged_files_work_or_are_refused(out: Path, unfinished: Path) -> None:
    plan, manifest = out / "_tirazh/plan.json", out / "_tirazh/manifest.json"
    actions: list[tuple[Path, Callable[[], object]]] = [
        (plan, lambda: resume_and_verify(out, unfinished)),
        (manifest, lambda: write_report(str(out))),
        (next((out / "_tirazh/receipts").iterdir()), lambda: verify(str(out))),
    ]
    for path, action in actions:
        good = path.read_bytes()
        for _, content in mutants(good, count=30, seed=7):
            path.write_bytes(content)
            attempt("output directories", content, action)
        path.write_bytes(good)


def test_a_receipt_with_missing_fields_raises() -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        Receipt.from_json(b'{"confusion": [], "part": 0}')
