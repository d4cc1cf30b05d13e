"""An output directory that somebody else has touched: plan, receipts, manifest and parts that lie."""

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
from tirazh.pipeline.output.ledger import verify
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import claim_output, read_plan, write_plan
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.output.write import Receipt
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.storage.filesystem import Storage

DEEP = "[" * 50_000


@pytest.fixture(scope="module")
def begun(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory with a plan, one receipt and one part."""
    folder = tmp_path_factory.mktemp("begun")
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
def out(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun / "out", tmp_path / "out")


CHANGES: dict[str, Any] = {
    "another format": {"format": 2},
    "a format that is a list": {"format": [1]},
    "no files": {"files": []},
    "files that are none": {"files": [1, 2]},
    "a file of too few words": {"files": [["a", "b"]]},
    "cuts that are texts": {"files": [["a", "a", 1, "v", ["0", "3"]]]},
    "cuts that go backwards": {"files": [["a", "a", 1, "v", [3, 0]]]},
    "cuts without end": {"files": [["a", "a", 1, "v", [0, 10**30]]]},
    "a name that climbs": {"files": [["../../etc/passwd", "../x", 1, "v", [0, 3]]]},
    "a schema that is none": {"arrow_schema": "AAAA"},
    "a schema that is no base64": {"arrow_schema": "***"},
    "a schema of numbers": {"arrow_schema": 7},
    "an identity that is a list": {"identity": []},
    "an identity that is a text": {"identity": "x"},
    "overrides that are a number": {"overrides": 7},
    "a seq_length that is a text": {"seq_length": "x"},
    "a dtype of nobody": {"dtype": "float9"},
    "a fingerprint that is a list": {"fingerprint": []},
    "null for all": dict.fromkeys(("format", "files", "identity", "arrow_schema", "overrides")),
}
TEXTS = {
    "nothing": "",
    "null": "null",
    "a list": "[]",
    "a number": "7",
    "a text": '"x"',
    "cut off": '{"format": 1,',
    "deep": DEEP,
    "a huge number": '{"format": ' + "9" * 5_000 + "}",
    "half a surrogate": '{"format": 1, "identity": {"input": "\\ud800"}}',
}


def look(out: Path, begun: Path) -> None:
    """All that reads an output directory: a resume, verify, report."""
    output = OutputFiles(Storage(), str(out))
    plan = read_plan(output)
    assert plan is not None
    paths = {"input": str(begun / "in.parquet"), "output": str(out), "model": str(plan.identity["model"])}
    claim_output(
        output, plan_job(build_spec("classify", {**paths, "labels": "a,b", "dtype": "float32"})), overwrite=False
    )
    verify(str(out))


def change(path: Path, changes: dict[str, Any]) -> bytes:
    content = json.dumps(json.loads(path.read_text()) | changes).encode()
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_that_lies_is_refused_or_followed_no_further(name: str, out: Path, begun: Path) -> None:
    content = change(out / "_tirazh/plan.json", CHANGES[name])
    attempt("output directories", content, lambda: look(out, begun))


@pytest.mark.parametrize("name", TEXTS)
def test_a_plan_that_is_none_is_refused(name: str, out: Path, begun: Path) -> None:
    (out / "_tirazh/plan.json").write_text(TEXTS[name])
    refusal("output directories", "plan " + TEXTS[name], lambda: look(out, begun))


@pytest.mark.parametrize("name", TEXTS)
def test_a_manifest_that_is_none_makes_no_report(name: str, out: Path) -> None:
    (out / "_tirazh/manifest.json").write_text(TEXTS[name])
    refusal("output directories", "manifest " + TEXTS[name], lambda: write_report(str(out)))


RECEIPTS = {
    **TEXTS,
    "no fields": "{}",
    "too many fields": json.dumps({"part": 0, "rows": 1, "confusion": [], "evil": 1}),
    "confusion of numbers": json.dumps({"confusion": [1, 2]}),
    "confusion of nothing": json.dumps({"confusion": None}),
}


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_receipt_that_is_none_is_a_problem_that_verify_names(name: str, out: Path) -> None:
    (path,) = (out / "_tirazh/receipts").iterdir()
    path.write_text(RECEIPTS[name])
    found: list[Any] = []
    attempt("output directories", "receipt " + RECEIPTS[name], lambda: found.append(verify(str(out))))
    assert not found or "receipt" in " ".join(found[0].problems)


def test_files_spoilt_at_random_work_or_are_named(out: Path, begun: Path) -> None:
    plan, manifest = out / "_tirazh/plan.json", out / "_tirazh/manifest.json"
    actions: list[tuple[Path, Callable[[], object]]] = [
        (plan, lambda: look(out, begun)),
        (manifest, lambda: write_report(str(out))),
        (next((out / "_tirazh/receipts").iterdir()), lambda: verify(str(out))),
    ]
    for path, action in actions:
        good = path.read_bytes()
        for _, content in mutants(good, count=30, seed=7):
            path.write_bytes(content)
            attempt("output directories", content, action)
        path.write_bytes(good)


def test_a_receipt_is_read_as_plain_numbers() -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        Receipt.from_json(b'{"confusion": [], "part": 0}')
